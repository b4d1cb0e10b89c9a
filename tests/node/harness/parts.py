"""What tests/cluster/apiserver has for both kinds of cluster."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
REPOSITORY = HERE.parent.parent

_loader = SourceFileLoader("apiserver", str(REPOSITORY / "tests/cluster/apiserver"))
_spec = spec_from_loader(_loader.name, _loader)
assert _spec is not None
apiserver = module_from_spec(_spec)
sys.modules[_loader.name] = apiserver
_loader.exec_module(apiserver)

Failed = apiserver.Failed
Stopped = apiserver.Stopped
