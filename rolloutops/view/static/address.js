// The filter of rollouts, as it is in the address of a page.

export const FACETS = ["dataset", "policy", "finish_reason", "error", "tool", "label"];
const FILTER = ["where", ...FACETS, "low", "high", "sort"];

/** The filter's part of this page's address. */
export function filterParams(search = location.search) {
  const found = new URLSearchParams();
  for (const [name, value] of new URLSearchParams(search)) {
    if (FILTER.includes(name) && (value !== "" || FACETS.includes(name))) found.append(name, value);
  }
  return found;
}

/** Some parameters with others set; null takes one away. */
export function withParams(params, changes) {
  const found = new URLSearchParams(params);
  for (const [name, value] of Object.entries(changes)) {
    found.delete(name);
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined) found.append(name, one);
    }
  }
  return found;
}

/** The address of a page. */
export function href(path, params) {
  const text = String(params);
  return text ? `${path}?${text}` : path;
}

/** The address of a rollout, with the filter that it was reached through. */
export function rolloutHref(row, params = new URLSearchParams()) {
  return href("/rollout", withParams(params, { of: row.dataset, attempt: row.attempt_id }));
}

/** The address of a task. */
export function taskHref(row, params = new URLSearchParams()) {
  return href("/task", withParams(params, { of: row.dataset, task: row.task_id }));
}
