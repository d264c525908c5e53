"""A Task's parameters: from given values to an instance of its class `Parameters`, and back to JSON.

The class may be a pydantic model (version 1 or 2, whichever the Task's environment has; we import neither), a
dataclass, or any class that takes keyword arguments. Names that it does not know are errors wherever it lets us
know its names: a misspelt parameter that is silently ignored costs a beam time.

The types of a dataclass are checked by pydantic, version 2 or 1, where the Task's environment has it. They are not
where there is none, where pydantic does not know a type, nor where the class takes other arguments than its fields.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from theorbo.schemas.errors import UsageError
from theorbo.schemas.limits import NAME_CHARACTERS
from theorbo.schemas.records import encode_record

_PROBLEMS_SHOWN = 3


class ParameterError(UsageError):
    """Parameters that the Task cannot be given: a sentence with the parameter's name and value.

    `field` is the first parameter concerned (`name`, or `name.inner` of a nested one), or None; `near` are names
    that may have been meant.
    """

    def __init__(self, message: str, field: str | None = None, near: list[str] | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.near = near or []


def build_parameters(model: Any, given: Any) -> Any:
    """An instance of `model` from a mapping of values (or None: no values); what is none is returned as it is.

    Without a model: a namespace of the values. Raises ParameterError.
    """
    if given is not None and not isinstance(given, Mapping):
        return given
    values = {str(name): value for name, value in (given or {}).items()}
    if model is None:
        return SimpleNamespace(**values)
    _refuse_unknown(_known_names(model), values)
    try:
        if hasattr(model, "model_validate"):
            return model.model_validate(values)
        if hasattr(model, "parse_obj"):
            return model.parse_obj(values)
        _refuse_missing(model, values)
        return _checked_dataclass(model, values) if _is_checked(model) else model(**values)
    except ParameterError:
        raise
    except Exception as error:  # pydantic's, or whatever the class raises for what it does not like
        raise _in_our_words(error, values) from None


def validated_parameters(model: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values as `model` has understood them, with its defaults, in a form that can be given to it again.

    What JSON cannot carry is left out, so that the default holds again. Where the model would understand these
    differently (aliases and secrets, say), the values as they were given. Raises ParameterError.
    """
    parameters = build_parameters(model, values)
    understood = _as_json(parameters)
    known = None if model is None else _known_names(model)
    understood = {name: value for name, value in understood.items() if known is None or name in known}
    try:
        again = build_parameters(model, understood)
    except ParameterError:
        return values
    comparison: object = type(parameters).__eq__
    if comparison is object.__eq__:  # a plain class
        return understood if _as_json(again) == _as_json(parameters) else values
    return understood if again == parameters else values


def shown_parameters(model: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values as others may see them: pydantic's secrets are masked, at whatever depth. Raises ParameterError."""
    parameters = build_parameters(model, values)
    knows_secrets = hasattr(parameters, "model_dump") or hasattr(parameters, "__fields__") or _is_checked(model)
    return _as_json(parameters) if knows_secrets else values


def _is_checked(model: Any) -> bool:
    """Whether it is a dataclass whose arguments are its fields, so that pydantic can do what its __init__ does."""
    import dataclasses

    if not dataclasses.is_dataclass(model):
        return False
    return set(_keywords(model) or ()) == {field.name for field in dataclasses.fields(model) if field.init}


def _checked_dataclass(model: Any, values: dict[str, Any]) -> Any:
    """An instance of a dataclass, with its types checked as far as pydantic can. Raises what pydantic or it does."""
    if _is_plain(model, values):
        return model(**values)
    try:
        import pydantic

        if hasattr(pydantic, "TypeAdapter"):
            return pydantic.TypeAdapter(model).validate_python(values)
        return pydantic.parse_obj_as(model, values)  # type: ignore[deprecated,unused-ignore]
    except Exception as error:
        if callable(getattr(error, "errors", None)):
            raise
        return model(**values)  # no pydantic, or one that does not know a type; what the class raises, it raises again


_PLAIN = {name: kind for kind in (bool, int, float, str) for name in (kind, kind.__name__)}


def _is_plain(model: Any, values: dict[str, Any]) -> bool:
    """Whether there is nothing to check: thousands of ranks need not import pydantic for what has been checked."""
    import dataclasses

    kinds = {field.name: field.type for field in dataclasses.fields(model)}
    return all(
        isinstance(kinds[name], (type, str)) and type(value) is _PLAIN.get(kinds[name])
        for name, value in values.items()
    )  # fmt: skip


def _as_json(parameters: Any) -> dict[str, Any]:
    try:
        if hasattr(parameters, "model_dump"):
            values = parameters.model_dump(mode="json")
        elif hasattr(parameters, "__fields__") and hasattr(parameters, "json"):
            values = json.loads(parameters.json())
        else:
            values = _attributes(parameters)
    except Exception:  # one value that cannot be serialised hides all: take what is there
        values = dict(vars(parameters))
    return {name: value for name, value in values.items() if _is_json(value)}


def _attributes(parameters: Any) -> dict[str, Any]:
    import dataclasses

    if dataclasses.is_dataclass(parameters) and not isinstance(parameters, type):
        pydantic = sys.modules.get("pydantic")  # if it was not needed to check them, none of its types are in there
        with contextlib.suppress(Exception):  # it does not know a type
            if pydantic is not None and hasattr(pydantic, "TypeAdapter"):
                return dict(pydantic.TypeAdapter(type(parameters)).dump_python(parameters, mode="json", warnings=False))
            if pydantic is not None:
                encoder = importlib.import_module("pydantic.json").pydantic_encoder
                return dict(json.loads(json.dumps(dataclasses.asdict(parameters), default=encoder)))
        return dataclasses.asdict(parameters)
    return {name: value for name, value in getattr(parameters, "__dict__", {}).items() if not name.startswith("_")}


def _is_json(value: Any) -> bool:
    try:
        encode_record({"value": value})
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _known_names(model: Any) -> set[str] | None:
    """The names of parameters that `model` takes; None if it takes any, or does not say."""
    fields = getattr(model, "model_fields", None)
    if isinstance(fields, Mapping):
        config = getattr(model, "model_config", {})
        if config.get("extra") in ("allow", "ignore"):
            return None
        by_name = bool(config.get("populate_by_name") or config.get("validate_by_name"))
        return {name for field, info in fields.items() for name in _names_of(field, info, by_name)}
    fields = getattr(model, "__fields__", None)
    if isinstance(fields, Mapping):
        config = getattr(model, "__config__", None)
        if getattr(config, "extra", None) == "allow":
            return None
        by_name = getattr(config, "allow_population_by_field_name", False)
        return {name for field, info in fields.items() for name in ((field, info.alias) if by_name else (info.alias,))}
    names = _keywords(model)
    return None if names is None else set(names)


def _names_of(field: str, info: Any, by_name: bool) -> list[str]:
    """What a field of pydantic 2 may be called: by its alias (a string, path, or choice of these), else its name."""
    alias = info.validation_alias
    if alias is None:
        return [field]
    names = [field] if by_name else []
    for choice in getattr(alias, "choices", [alias]):
        first = choice if isinstance(choice, str) else next(iter(getattr(choice, "path", [])), None)
        if isinstance(first, str):
            names.append(first)
    return names


def _keywords(model: Any) -> dict[str, bool] | None:
    """The keyword arguments of a class, and whether each must be given; None if it takes any."""
    import inspect

    try:
        arguments = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
        return None
    return {
        argument.name: argument.default is argument.empty
        for argument in arguments
        if argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)
    }


def _refuse_unknown(known: set[str] | None, values: dict[str, Any]) -> None:
    for name in values if known is not None else ():
        if known is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            if near:
                hint = f"did you mean {' or '.join(near)}?"
            else:
                hint = (
                    f"it has {', '.join(sorted(known))}"
                    if known
                    else "it takes none (is its class Parameters a dataclass?)"
                )
            raise ParameterError(
                f"the Task has no parameter {name!r} (value {_shown(values[name])}); {hint}", name, near
            )


def _refuse_missing(model: Any, values: dict[str, Any]) -> None:
    missing = [name for name, needed in (_keywords(model) or {}).items() if needed and name not in values]
    if missing:
        raise ParameterError("; ".join(f"parameter {name!r} is missing" for name in missing), missing[0])


def _in_our_words(error: Exception, values: dict[str, Any]) -> ParameterError:
    listed = getattr(error, "errors", None)
    if not callable(listed):
        shown = ", ".join(f"{name} = {_shown(value)}" for name, value in values.items())
        return ParameterError(f"parameters ({shown}) are refused: {type(error).__name__}: {error}")
    problems = listed()
    sentences = [_sentence(problem, values) for problem in problems[:_PROBLEMS_SHOWN]]
    if len(problems) > _PROBLEMS_SHOWN:
        sentences.append(f"and {len(problems) - _PROBLEMS_SHOWN} more")
    place = problems[0]["loc"] if problems else ()
    return ParameterError("; ".join(sentences), ".".join(str(item) for item in place if item != "__root__") or None)


def _sentence(problem: dict[str, Any], values: dict[str, Any]) -> str:
    """One of pydantic's errors, of version 1 or 2."""
    place = [item for item in problem["loc"] if item != "__root__"]
    if not place:
        return f"parameters: {problem['msg']}"
    name = ".".join(str(item) for item in place)
    if problem["type"] in ("missing", "value_error.missing"):
        return f"parameter {name!r} is missing"
    found, value = _at(values, place)
    hint = ""
    if problem["type"] == "string_type" and len(place) == 1 and isinstance(value, (bool, int, float)):
        hint = f""" (it was read as JSON; on a command line -p '{name}="{json.dumps(value)}"' is text)"""
    return f"parameter {name!r}{f' = {_shown(value)}' if found else ''}: {problem['msg']}{hint}"


def _at(values: Any, place: list[Any]) -> tuple[bool, Any]:
    for item in place:
        try:
            values = values[item]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, values


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= NAME_CHARACTERS else text[:NAME_CHARACTERS] + "…"
