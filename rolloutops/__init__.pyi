from rolloutops.api import RunReport as RunReport
from rolloutops.api import Workspace as Workspace
from rolloutops.api import open as open
from rolloutops.api import read_build as read_build
from rolloutops.errors import RolloutopsError as RolloutopsError

__version__: str
PUBLIC: dict[str, str]
