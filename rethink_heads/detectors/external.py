"""Opens the detectors that users bring: ``torchvision:NAME``, ``detectron2:CONFIG``, ``python:MODULE:FUNCTION``."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rethink_heads.detectors.answers import (
    check_detector,
    check_loaded,
    describe_error,
    is_from_user_code,
    user_code,
)
from rethink_heads.detectors.base import Detector
from rethink_heads.detectors.fingerprint import modules_in
from rethink_heads.errors import UserError

logger = logging.getLogger(__name__)

KINDS = ("torchvision:NAME", "detectron2:CONFIG", "python:MODULE:FUNCTION")
REQUIRED = ("class_names", "heads", "device", "extract", "pool", "predict")
WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
}
"""PyTorch's classes whose forward pass is that of a module that they hold, and the attribute that it is."""


def open_model(
    model: str,
    weights: str | None = None,
    class_names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> Detector:
    """The detector that a text names, in evaluation mode.

    Args:
        model: ``torchvision:`` and a model builder's name (``fasterrcnn_resnet50_fpn``); ``detectron2:`` and a
            configuration file or its name in detectron2's model zoo; or ``python:`` with a module and a function in it
            that makes a detector: one of :class:`rethink_heads.detectors.base.Detector`, or a module of either
            framework. Every torch module that it holds, in whichever attribute or container, is put into evaluation
            mode, and the detector is checked (:func:`rethink_heads.detectors.answers.check_detector`).
        weights: the name of torchvision's weights, or a file; None leaves it to the model. The function of ``python:``
            is given it as ``weights``.
        class_names: of the K classes of the scores, where neither model nor weights say them.
        device: where to compute. The function of ``python:`` is given it as ``device``, if it has such an argument; a
            module that it makes is put there, and of any other detector that is elsewhere a warning says so.

    Raises:
        UserError: there is no such model, its weights do not fit, or it is no two-stage detector.
    """
    kind, _, name = model.partition(":")
    device = torch.device(device)
    if name and kind == "torchvision":
        from rethink_heads.detectors.torchvision.opening import open_torchvision

        return open_torchvision(name, weights, class_names, device)
    if name and kind == "detectron2":
        from rethink_heads.detectors.detectron2.opening import open_detectron2

        return open_detectron2(name, weights, class_names, device)
    if name and kind == "python":
        return _open_python(name, weights, class_names, device)
    raise UserError(f"unknown model {model!r}; give one of {', '.join(KINDS)}")


def as_detector(model: Any, class_names: Sequence[str] | None = None) -> Detector:
    """A live Python object as a detector: one already, or a module of torchvision's or detectron2's.

    Args:
        model: in place on its device; it is put into evaluation mode. ``DataParallel``, ``DistributedDataParallel``,
            ``AveragedModel`` and what ``torch.compile`` gives stand for the module in them.
        class_names: of the K foreground classes. A module of a framework does not know them; None then takes those of
            COCO where it has as many.

    Raises:
        UserError: it is no two-stage detector, or the class names do not fit.
    """
    model = _unwrapped(model)
    if not isinstance(model, type) and all(hasattr(model, name) for name in REQUIRED):
        if class_names is not None and tuple(class_names) != tuple(model.class_names):
            raise UserError(
                f"{type(model).__name__} names its classes itself ({', '.join(map(str, model.class_names))}): leave out"
                " the class names, or have it name them otherwise"
            )
        return model
    frameworks = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "detectron2" in frameworks:
        from rethink_heads.detectors.detectron2.opening import from_module as from_detectron2

        return from_detectron2(model, class_names)
    if "torchvision" in frameworks:
        from rethink_heads.detectors.torchvision.opening import from_module as from_torchvision

        return from_torchvision(model, class_names)
    own = type(model).__name__
    for name, each in model.named_modules() if isinstance(model, torch.nn.Module) else ():
        kinds = {kind.__name__ for kind in type(each).__mro__}
        if name and ("GeneralizedRCNN" in kinds or all(hasattr(each, n) for n in REQUIRED)):
            raise UserError(
                f"{own} is no detector itself but holds one, a {type(each).__name__}: give that, its `{name}`, with"
                f" whatever {own} does to images before it in the detector's own transform"
            )
    missing = [name for name in REQUIRED if not hasattr(model, name)]
    raise UserError(
        f"{_description(model)} is neither a detector of torchvision or detectron2 nor one behind the Protocol of"
        f" rethink_heads.detectors.base: it lacks {', '.join(missing)}"
    )


def _unwrapped(model: Any) -> Any:
    """The module that a wrapper of PyTorch holds; wrappers may be within each other."""
    while isinstance(model, torch.nn.Module) and type(model).__module__.startswith("torch."):
        attribute = WRAPPERS.get(type(model).__name__)
        if attribute is None:
            break
        model = getattr(model, attribute)
    return model


def _description(model: Any) -> str:
    """What something is that is no detector, as the beginning of a sentence."""
    if model is None:
        return "what is given is None (does the function return the detector?): it"
    if isinstance(model, type):
        return f"the class {model.__name__} (give an object of it)"
    if isinstance(model, tuple | list | dict):
        parts = list(model.values()) if isinstance(model, dict) else list(model)
        held = ", ".join(type(each).__name__ for each in parts[:4])
        return f"a {type(model).__name__} of {held or 'nothing'} (give the detector alone)"
    return type(model).__name__


def model_name(model: str) -> str:
    """A short name for what ``--model`` is given, which its folder has."""
    kind, _, name = model.partition(":")
    if kind == "python":
        return name.replace(":", "-").rpartition(".")[2]
    return Path(name).stem


def _open_python(
    name: str, weights: str | None, class_names: Sequence[str] | None, device: torch.device
) -> Detector:
    where = f"python:{name}"
    made = _unwrapped(_call(_import_function(name), weights, device, where))
    with user_code(f"what {where} makes"):
        for module in modules_in(made):
            module.eval()
            if training := [each for each in module.modules() if each.training]:
                raise UserError(
                    f"a {type(training[0]).__name__} that {where} makes stays in training mode after eval(): have its"
                    " eval() and train(False) change that"
                )
        if isinstance(made, torch.nn.Module):
            made = made.to(device)
        detector = as_detector(made, class_names)
        # Buffers may be infinite on purpose, as masks are.
        for module in modules_in(made):
            check_loaded(module.named_parameters(), where)
    check_detector(detector, where)
    found = torch.device(detector.device)
    any_index = None in (found.index, device.index)
    same = found.type == device.type and (any_index or found.index == device.index)
    if not isinstance(made, torch.nn.Module) and not same:
        logger.warning(
            "%s computes on %s, not on %s: what its function makes stays where it is put; give the function an"
            " argument `device`, and put everything there",
            where,
            found,
            device,
        )
    return detector


def _import_function(name: str) -> Any:
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UserError(
            f"python:{name} does not name a function: give python:MODULE:FUNCTION, for example"
            " python:my_package.module:make_detector"
        )
    if "/" in module_name or module_name.endswith(".py"):
        raise UserError(
            f"python:{name} names a file: give the module's name, with dots between folders and without .py, for"
            f" example python:{Path(module_name).stem}:{function_name}"
        )
    # Modules in the current folder can be imported, as by ``python`` but not by an installed program.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise UserError(
                f"cannot import {module_name}: it needs {error.name}, which is not installed"
            ) from error
        raise UserError(
            f"there is no module {module_name} in the current folder or among the installed packages"
        ) from error
    except BaseException as error:  # Whatever the module does when it is imported.
        if not isinstance(error, Exception) and not is_from_user_code(error):
            raise
        raise UserError(f"cannot import {module_name}: {describe_error(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"{module_name} has no function {function_name}")
    return function


def _call(function: Any, weights: str | None, device: torch.device, where: str) -> Any:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{where} is built in, and what it takes is not known: give a function of your own that makes the detector"
        ) from error
    parameters = signature.parameters
    if weights is not None and "weights" not in parameters:
        raise UserError(f"--weights was given, but {where} takes no argument `weights`")
    arguments: dict[str, Any] = {} if weights is None else {"weights": weights}
    if "device" in parameters:
        arguments["device"] = device
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"{where} cannot be called without what it needs ({error}): give a function without arguments, or with"
            " `weights` and `device` alone, or with defaults for the others"
        ) from error
    with user_code(where):
        return function(**arguments)
