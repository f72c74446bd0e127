"""One page of runs, live in a browser or in a file: what their logs say, and the plan beside it.

`Runs` finds runs in folders and tells at each look what there is to be seen, as JSON data; `PageServer` serves it with
the assets of `live_assets`; `static_page` is the same page in one file.
"""

from megatron.run_page.page import live_assets, static_page
from megatron.run_page.server import LOCAL_NAMES, PageServer
from megatron.run_page.snapshot import Runs

__all__ = ["LOCAL_NAMES", "PageServer", "Runs", "live_assets", "static_page"]
