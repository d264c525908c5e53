"""What can be set, where, and with what precedence: flags, then environment, then file, then defaults."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from theorbo.broker.server import Plan
from theorbo.schemas.connection import state_directory
from theorbo.schemas.errors import UsageError
from theorbo.schemas.limits import JOURNAL_AGE_S, JOURNAL_BYTES, LOST_S

PREFIX = "THEORBO_BROKER__"
"""Of environment variables; THEORBO_BROKER itself names a connection file."""

_ADDRESS = re.compile(r"tcp://(\*|[^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):(\d{1,5})")


class BrokerSettings(BaseSettings):
    """All settings of `theorbo broker`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, use_attribute_docstrings=True)

    bind: str = "tcp://127.0.0.1:5580"
    """Address for conversations, `tcp://ADDRESS:PORT`. `0.0.0.0` stands for all interfaces, port 0 for any free one."""
    publisher: str = ""
    """Address of the live streams; empty: the port after that of `bind`, or any free one if that is 0."""
    state: Path = Field(default_factory=state_directory)
    """Directory of journal, attachments and keys, on a local disk. The default is $THEORBO_STATE, else
    `~/.local/state/theorbo`."""
    connection: Path | None = None
    """Where the connection file is written that all others read; empty: `connection.json` in the state directory."""
    retention_days: float = Field(default=JOURNAL_AGE_S / 86400.0, gt=0)
    """Executions that ended longer ago are removed from the journal, with their attachments."""
    retention_bytes: int = Field(default=JOURNAL_BYTES, ge=1_000_000)
    """When journal and attachments are larger, the executions that ended first are removed."""
    lost_after_s: float = Field(default=LOST_S, ge=1.0)
    """An execution is LOST when neither its Executor nor its agents have been heard for so many seconds."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is written to stderr: this level and above."""

    @field_validator("bind", "publisher")
    @classmethod
    def _address(cls, value: str) -> str:
        match = _ADDRESS.fullmatch(value)
        if value and (not match or int(match.group(2)) > 65535):
            raise ValueError(f"{value!r} is no address; expected tcp://ADDRESS:PORT, for example tcp://127.0.0.1:5580")
        return value

    @field_validator("bind")
    @classmethod
    def _bound(cls, value: str) -> str:
        if not value:
            raise ValueError("an address is needed, for example tcp://127.0.0.1:5580")
        return value

    @field_validator("state", "connection")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @property
    def connection_file(self) -> Path:
        """Where the connection file is written."""
        return self.connection or self.state / "connection.json"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings'
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come as arguments; the one that comes first wins."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(file: Path | None, flags: dict[str, Any]) -> BrokerSettings:
    """The effective settings. Raises UsageError with the place and the value of the first mistake."""
    variables = {name.upper().removeprefix(PREFIX).lower(): name for name in os.environ if _ours(name)}
    for name, variable in variables.items():
        if name not in BrokerSettings.model_fields:
            raise UsageError(f"environment variable {variable}: {_unknown(name)}")
    try:
        if file is not None:
            file.read_bytes()

        class FromFile(BrokerSettings):
            model_config = SettingsConfigDict(toml_file=file)

        return FromFile(**flags)
    except OSError as error:
        raise UsageError(f"cannot read configuration {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration {file} is no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if name in flags:
        place = f"option --{name.replace('_', '-')}"
    elif name in variables:
        place = f"environment variable {variables[name]}"
    else:
        place = f"{file}"
    if first["type"] == "extra_forbidden":
        raise UsageError(f"{place}: {_unknown(name)}")
    raise UsageError(f"{place}: {name} = {first['input']!r}: {first['msg'].removeprefix('Value error, ')}")


def _ours(variable: str) -> bool:
    return variable.upper().startswith(PREFIX)


def _unknown(name: str) -> str:
    known = list(BrokerSettings.model_fields)
    near = difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f"there is no setting {name!r}; {hint}"


def plan(settings: BrokerSettings) -> Plan:
    """What the server has to know."""
    return Plan(
        state=settings.state,
        connection=settings.connection_file,
        bind=settings.bind,
        publisher=settings.publisher,
        retention_age_s=settings.retention_days * 86400.0,
        retention_bytes=settings.retention_bytes,
        embedded=False,
        lost_after_s=settings.lost_after_s,
    )


def effective(settings: BrokerSettings) -> str:
    """The settings as TOML, ready to be a configuration file."""
    values = {name: getattr(settings, name) for name in BrokerSettings.model_fields}
    values["connection"] = settings.connection_file
    return "".join(
        f"{name} = {value if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False)}\n"
        for name, value in values.items()
    )


def page() -> str:
    """The text of docs/configuration.md."""
    lines = [
        "# Configuration of the broker",
        "",
        "<!-- Made by `python -m theorbo.broker.settings`; change theorbo/broker/settings.py and run it. -->",
        "",
        "`theorbo broker` needs no configuration. What can be set is set, in this order of precedence, by",
        "",
        "1. options of the command (`--bind tcp://…`),",
        f"2. environment variables (`{PREFIX}BIND=tcp://…`),",
        '3. a TOML file (`--config FILE`; `bind = "tcp://…"`),',
        "4. defaults.",
        "",
        "A setting that does not exist is an error. `theorbo broker --check-config` prints the effective settings as",
        "TOML and exits with 0, or says which value is wrong and where it stands, and exits with 2.",
        "",
        "| setting | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in BrokerSettings.model_fields.items():
        default = "(see there)" if field.default_factory else "" if field.default is None else f"`{field.default}`"
        if field.default == "":
            default = "empty"
        meaning = " ".join((field.description or "").split())
        lines.append(f"| `{name}` | {_TYPES[name]} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


_TYPES = {
    "bind": "address", "publisher": "address", "state": "path", "connection": "path", "retention_days": "number",
    "retention_bytes": "integer", "lost_after_s": "number", "log_level": "debug, info, warning or error",
}  # fmt: skip


if __name__ == "__main__":
    print(page(), end="")
