#!/usr/bin/env bash
# Installs Chromium for the tests of pages where it is missing and can be installed; else those tests are skipped.
set -u

command -v chromium chromium-browser google-chrome >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get install -y -qq chromium || { apt-get update -qq && apt-get install -y -qq chromium; }; } >/dev/null 2>&1
fi
command -v chromium >/dev/null || echo "no Chromium: the tests of pages are skipped (apt-get install chromium)"
exit 0
