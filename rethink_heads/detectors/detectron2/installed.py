"""Whether detectron2 can be used here, and what to do where it cannot."""

from __future__ import annotations

import logging
import warnings

from rethink_heads.errors import UserError

COMPILING = (
    "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)
INSTALLING = f"{COMPILING}, or put a checkout of it on PYTHONPATH, which serves without compiling"

TRACER = "torch.fx._symbolic_trace"


def _is_for_users(record: logging.LogRecord) -> bool:
    """False for advice of torch's that detectron2's pooler brings about, and that its own authors alone can follow."""
    return not record.getMessage().startswith("is_fx_tracing")


def require_detectron2() -> None:
    """Import detectron2's models.

    Raises:
        UserError: it, or a package that it needs, is not installed; the message says how to install it.
    """
    try:
        with warnings.catch_warnings():
            # Said of detectron2's own code, which whoever runs it here cannot change.
            warnings.filterwarnings(
                "ignore", message=".*torch.jit.script.*", category=FutureWarning
            )
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            import detectron2.config
            import detectron2.data
            import detectron2.modeling  # noqa: F401
        logging.getLogger(TRACER).addFilter(_is_for_users)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "detectron2"):
            raise UserError(f"detectron2 is not installed: {INSTALLING}") from error
        raise UserError(
            f"detectron2 is here, but {missing!r} that it imports is not: install that, or detectron2 with all that it"
            f" needs: {INSTALLING}"
        ) from error
    except ImportError as error:
        raise UserError(f"detectron2 cannot be imported ({error}): {INSTALLING}") from error
