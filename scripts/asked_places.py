"""A server of ours that leaves states wherever it is asked to, beside those that the policy wants.

The policy asks for one inside a prompt, at its branch point. A measurement, or a test, wants more.
Where, a file says that the environment variable `FILE` names, in JSON; it may change while serving.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sglang_marconi.cache.mamba_component import MarconiMambaComponent
from sglang_marconi.cache.pass_states import Wanted
from sglang_marconi.events import Reason

FILE = "ASKED_PLACES"

# In place of SGLang's module: plants what follows, and goes on as that does.
_LAUNCH = """
import runpy, sys
from {module} import plant
plant()
sys.argv[0] = "sglang.launch_server"
runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)
"""


def command_with(module: str, command: list[str]) -> list[str]:
    """The command of a server, in whose process `plant` of a module is called first."""
    launched = command.index("sglang.launch_server")
    return [command[0], "-c", _LAUNCH.format(module=module), *command[launched + 1 :]]


def plant() -> None:
    """Each prompt leaves states after so many tokens as the file says, as far as it goes."""
    wanted = MarconiMambaComponent.wanted

    def wanted_too(self: Any, req: Any, **about: Any) -> list[Wanted]:
        found = {each.tokens: each for each in wanted(self, req, **about)}
        for tokens in json.loads(Path(os.environ[FILE]).read_text()):
            if tokens <= len(req.origin_input_ids):
                found.setdefault(tokens, Wanted(tokens, Reason.BRANCH))
        return [found[tokens] for tokens in sorted(found)]

    MarconiMambaComponent.wanted = wanted_too  # type: ignore[method-assign]
