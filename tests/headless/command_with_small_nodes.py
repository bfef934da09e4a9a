"""The command, as a process of its own, with the small nodes of executor_nodes among those it knows."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (HERE, HERE.parents[1])]
    import importlib.util

    for name, path in (("entry", HERE.parents[1] / "__main__.py"), ("small", HERE / "executor_nodes.py")):
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        if name == "entry":
            module.register_checkout()
    from talking_portrait.headless.command_line import console
    from talking_portrait.headless.core_nodes import CORE_NODES

    CORE_NODES.update(sys.modules["small"].NODE_CLASS_MAPPINGS)
    console()
