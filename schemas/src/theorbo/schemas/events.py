"""Events: everything that can be reported, as closed, frozen types. Needs pydantic.

`decode_event` makes one of them from the JSON text of a record. A field that this version does not know
is ignored, a kind that it does not know becomes an `UnknownEvent`: newer writers do not stop older
readers. What has a wrong type is an error of its writer, and becomes an `InvalidEvent`, for a reader must
go on. Which kind travels on which channel stands in `names.KIND_CHANNELS`.

Every event has `time` (Unix time in seconds, of the writer's clock) and `pid` (of the writer, 0 if unknown).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from theorbo.schemas.limits import COUNT, GRACE_S, RANKS
from theorbo.schemas.names import OUTPUT_KIND


class Part(BaseModel):
    """A piece of a payload, in one of four forms: `value` (JSON), `text`, an attachment, or a file by reference.

    `mime` says what it is: application/json, application/x-npy (numpy's .npy, never with pickle),
    application/octet-stream, image/png, text/html, text/plain …
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = ""
    mime: str
    value: Any = None
    text: str | None = None
    sha256: str | None = None
    size: int | None = None
    path: str | None = None
    problem: str | None = None
    """Why this part could not be sent; it then has no content."""


class EventBase(BaseModel):
    """What all events share."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    time: FiniteFloat
    """Where a NaN or an infinity would go, nothing can hold it: SQLite makes NULL of NaN, JSON has neither."""
    pid: int = 0


# --- signals: reported by the Executor -----------------------------------------------------------


class ExecutionSubmitted(EventBase):
    """The first event of every execution: what is to be run, for whom, with what."""

    kind: Literal["execution_submitted"] = "execution_submitted"
    task: str
    experiment: str = ""
    run: str = ""
    ranks: int = Field(default=1, ge=1, le=RANKS)
    user: str
    host: str
    command: list[str] = []
    parameters: dict[str, Any] = {}
    environment: dict[str, str] = {}
    """Selected variables of the Task's environment; never a secret."""
    versions: dict[str, str] = {}
    """Of Theorbo, Python and whatever else the Executor found out."""
    git: dict[str, Any] | None = None
    """`commit`, `branch` and `dirty` of the Task's source, where it lies in a repository."""
    work_dir: str = ""
    time_limit_s: float | None = None
    grace_s: float = GRACE_S
    """Between SIGTERM and SIGKILL, when somebody asks for an end."""
    launcher: str = "local"
    """What starts the ranks: local, mpi, slurm or srun."""
    nodes: int = Field(default=1, ge=1, le=RANKS)
    """How many machines they are to run on."""
    incarnation: str = ""
    """Of the Executor's process, whose epoch is 1 (see `names.Speaker`)."""


class ExecutorAttached(EventBase):
    """Another Executor has taken over the supervision of the execution."""

    kind: Literal["executor_attached"] = "executor_attached"
    epoch: int = Field(ge=2, le=COUNT)
    incarnation: str
    number: int = Field(ge=1, le=COUNT)
    """Of this very event in its stream: the first record of a spool tells by it how the rest is numbered."""
    user: str
    host: str


class ControlRequested(EventBase):
    """Somebody wants something done to the ranks; forwarded to all agents of the execution.

    Reported by the Executor, by the broker for whoever asked it (REQUEST), or by an agent when a time limit is over.
    """

    kind: Literal["control_requested"] = "control_requested"
    action: Literal["cancel", "kill", "stop", "continue", "stacks"]
    cause: Literal["user", "time_limit"] = "user"
    by: str
    reason: str = ""
    grace_s: float = 10.0
    """Between SIGTERM and SIGKILL of a cancel."""
    principal: str = ""
    """Of a REQUEST: whose key the client had (empty where there are none), for `by` is the client's own word."""
    token: str = ""
    """Of a REQUEST: by which the broker recognises it when it is asked again."""


class JobSubmitted(EventBase):
    """A batch scheduler has taken the launch as a job."""

    kind: Literal["job_submitted"] = "job_submitted"
    scheduler: str
    """slurm."""
    job: str
    """Its number there."""
    details: dict[str, str] = {}
    """What was asked for: partition, nodes, time …"""


class JobChanged(EventBase):
    """The batch scheduler says something new of the job."""

    kind: Literal["job_changed"] = "job_changed"
    job: str
    state: str
    """In the scheduler's own words: PENDING, RUNNING, TIMEOUT, NODE_FAIL …"""
    reason: str = ""
    """Why it waits, or ended, in the scheduler's own words."""
    nodes: str = ""


class LauncherGone(EventBase):
    """The Executor saw the launcher's process end without a word (its own end is `launcher_ended`)."""

    kind: Literal["launcher_gone"] = "launcher_gone"
    exit_code: int | None = None
    reason: str
    scheduler_state: str = ""
    """How the batch scheduler says that the job has ended; empty if there is none, or it does not say."""
    unwatched: bool = False
    """Whether nobody could look at the launcher: no agent was heard for `LOST_S`, and that is all that is known."""


# --- signals: reported by `theorbo launch`, agents and the thin parents of ranks ------------------------


class LauncherStarted(EventBase):
    """`theorbo launch` is about to start the agents and then the ranks."""

    kind: Literal["launcher_started"] = "launcher_started"
    host: str
    agents: int = Field(ge=1, le=RANKS)
    """One a node; numbered from 0, which is the one beside the launcher."""
    start_ticks: int = 0
    """Of the process of `theorbo launch`, whose `pid` this is: field 22 of /proc/PID/stat."""
    command: list[str] = []
    """The launcher's command: mpiexec and its options; empty where ranks are started directly."""
    job: str = ""
    """Of the batch scheduler, if it runs inside of one."""


class LauncherEnded(EventBase):
    """All that `theorbo launch` started has ended. Exit codes of mpiexec and its like are only a hint."""

    kind: Literal["launcher_ended"] = "launcher_ended"
    exit_code: int | None = None
    problem: str | None = None
    """Why nothing could be started: a missing program, say."""
    stderr: str = ""
    """The last lines of the launcher's own stderr."""
    unrecorded: dict[int, int] = {}
    """How those ranks ended whose own end record could not be written (a full disk): exit code, or minus the
    signal."""
    unrecorded_why: str = ""
    scheduler_state: str = ""
    """As of `launcher_gone`, asked from within the job."""


class NodeLost(EventBase):
    """What `theorbo launch` keeps running on a node has ended too early, or cannot be reached any more."""

    kind: Literal["node_lost"] = "node_lost"
    node: int = Field(ge=0, le=RANKS)
    """Number of its agent."""
    host: str
    reason: str


class AgentStarted(EventBase):
    """An agent is connected and about to deliver; a second one from the same source took over."""

    kind: Literal["agent_started"] = "agent_started"
    host: str
    version: str = ""
    epoch: int = Field(default=1, ge=1, le=COUNT)
    incarnation: str = ""
    """Both of the agent's process (see `names.Speaker`)."""


class AgentClosed(EventBase):
    """The agent's last word: how many events each stream of its node had; all are in the journal."""

    kind: Literal["agent_closed"] = "agent_closed"
    streams: dict[str, Annotated[int, Field(ge=0, le=COUNT)]]
    """Last number by stream (`rank:3/log`), without the agent's own signals."""


class RanksStopped(EventBase):
    """These ranks of the agent's node are held: none of their processes runs."""

    kind: Literal["ranks_stopped"] = "ranks_stopped"
    ranks: list[Annotated[int, Field(ge=0, le=RANKS)]]


class RanksContinued(EventBase):
    """These ranks of the agent's node run again."""

    kind: Literal["ranks_continued"] = "ranks_continued"
    ranks: list[Annotated[int, Field(ge=0, le=RANKS)]]


class RankStarted(EventBase):
    """The program of a rank runs; `pid` is the program's."""

    kind: Literal["rank_started"] = "rank_started"
    host: str
    parent_pid: int = 0
    """The thin parent that waits for it."""
    process_group: int = 0
    start_ticks: int = 0
    """Field 22 of /proc/PID/stat: tells this process from a later one of the same number."""


class RankEnded(EventBase):
    """The program of a rank has ended: with an exit code, by a signal, or it could not be started."""

    kind: Literal["rank_ended"] = "rank_ended"
    exit_code: int | None = None
    signal: str | None = None
    problem: str | None = None
    user_s: float = 0.0
    system_s: float = 0.0
    max_rss_bytes: int = 0
    out_of_memory: bool = False
    """Whether the kernel has killed something in the rank's cgroup for want of memory meanwhile."""
    memory_limit_bytes: int = 0
    """Of that cgroup, 0 if it has none, or nobody knows."""


class TaskFailed(EventBase):
    """The Task itself says that it has failed: an uncaught exception, or a result that cannot be sent."""

    kind: Literal["task_failed"] = "task_failed"
    error: str
    traceback: str = ""


class ControlAccepted(EventBase):
    """An agent (or the Executor, for a job that still waits) has begun to carry out what was requested."""

    kind: Literal["control_accepted"] = "control_accepted"
    action: str
    request: int = 0
    """The position of the request in the channel signals."""
    deadline: FiniteFloat = 0.0
    """When it will be done, or have failed (Unix time)."""


class ControlDone(EventBase):
    """An agent (or the Executor, for a job that still waits) has carried out what was requested, or cannot."""

    kind: Literal["control_done"] = "control_done"
    action: str
    request: int = 0
    """The position of the request in the channel signals."""
    detail: str = ""
    refused: str = ""
    """Why it could not be done; empty if it was."""


class Loss(EventBase):
    """Something that was to be delivered is lost: which stream, from where to where, why."""

    kind: Literal["loss"] = "loss"
    stream: str
    count: int = Field(default=0, ge=0, le=COUNT)
    """Events lost, 0 if unknown."""
    first: int = Field(default=0, ge=0, le=COUNT)
    """With `last`: the numbers in the stream that nobody can deliver any more. 0: what is lost had no numbers yet,
    so the stream has no gap."""
    last: int = Field(default=0, ge=0, le=COUNT)
    detail: str


# --- signals: made by the broker -------------------------------------------------------------------


class StateChanged(EventBase):
    """The one truth about an execution. States: `states.State`; final ones come after everything else."""

    kind: Literal["state_changed"] = "state_changed"
    state: str
    previous: str
    reason: str = ""


class AgentGivenUp(EventBase):
    """The agent of a node that was lost is not waited for any more."""

    kind: Literal["agent_given_up"] = "agent_given_up"
    node: int = Field(ge=0, le=RANKS)
    host: str = ""
    reason: str
    heard: FiniteFloat = 0.0
    """When it was last heard, by the broker's clock; 0: never."""


class ContactChanged(EventBase):
    """The broker has not heard a peer for a while, or hears it again. It changes no state."""

    kind: Literal["contact_changed"] = "contact_changed"
    peer: str
    """executor, agent:0 …"""
    contact: Literal["alive", "suspect", "silent"]
    previous: Literal["alive", "suspect", "silent"]
    heard: FiniteFloat
    """When it was last heard, by the broker's clock; if it is alive again, before it fell silent."""


class Conservation(EventBase):
    """Closes every execution, just before its final state: reported = delivered + lost, per stream.

    Of very many streams there are several; `lost` is the whole loss in the last one, 0 in those before.
    """

    kind: Literal["conservation"] = "conservation"
    streams: dict[str, tuple[int, int]]
    """By stream: reported, delivered."""
    lost: int = 0


# --- log, metrics, results -------------------------------------------------------------------------


class Log(EventBase):
    """A line for people."""

    kind: Literal["log"] = "log"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    text: str
    logger: str = ""
    attachments: list[dict[str, Any]] = []
    """The whole text, where `text` is only its beginning."""


class Output(EventBase):
    """A line that a program wrote to stdout or stderr (the channel tells which)."""

    kind: Literal["output"] = "output"
    text: str


class Progress(EventBase):
    """How far one rank is."""

    kind: Literal["progress"] = "progress"
    done: float
    total: float | None = None
    unit: str = ""
    text: str = ""


class Metric(EventBase):
    """A number worth watching."""

    kind: Literal["metric"] = "metric"
    name: str
    value: float
    unit: str = ""
    step: int | None = None


class Usage(EventBase):
    """What the ranks of one node use, by its agent, at a low rate."""

    kind: Literal["usage"] = "usage"
    host: str
    cpu: FiniteFloat = 0.0
    """Cores that the node's ranks have used since the last time, on average."""
    memory_bytes: int = 0
    """Resident, of all processes of the node's ranks."""
    node_cpu: FiniteFloat = 0.0
    """Cores that the whole node uses."""
    node_memory_bytes: int = 0
    """In use on the whole node."""
    ranks: dict[int, tuple[FiniteFloat, int, FiniteFloat]] = {}
    """By rank: cores, resident bytes, seconds since it has reported or written anything. Not all where they are very
    many: those that have been quiet for longest, and those that use most memory."""


class Data(EventBase):
    """Something worth showing while the Task runs: an array, a figure."""

    kind: Literal["data"] = "data"
    name: str
    parts: list[Part]
    attachments: list[dict[str, Any]] = []


class Result(EventBase):
    """What the Task has found out."""

    kind: Literal["result"] = "result"
    name: str = "result"
    summary: str = ""
    parts: list[Part] = []
    attachments: list[dict[str, Any]] = []


# --- what is not as expected -----------------------------------------------------------------------


class UnknownEvent(EventBase):
    """A kind that this version does not know, with all its fields."""

    kind: str
    fields: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _keep_all(cls, value: Any, _info: ValidationInfo) -> Any:
        return {
            "kind": value.get("kind"),
            "time": value.get("time", 0),
            "pid": value.get("pid", 0),
            "fields": value,
        }


class InvalidEvent(EventBase):
    """A record whose content is not what its kind demands: the text as it stood, and what is wrong."""

    kind: Literal["invalid"] = "invalid"
    text: str
    problem: str


KnownEvent = Annotated[
    Union[  # noqa: UP007 - a list of alternatives reads better here
        ExecutionSubmitted, ExecutorAttached, JobSubmitted, JobChanged, LauncherGone, LauncherStarted, LauncherEnded,
        NodeLost, AgentStarted, AgentClosed, AgentGivenUp, RankStarted, RankEnded, RanksStopped, RanksContinued,
        TaskFailed, ControlRequested, ControlAccepted, ControlDone, Loss, StateChanged, ContactChanged, Conservation,
        Log, Output, Progress, Metric, Usage, Data, Result,
    ],
    Field(discriminator="kind"),
]  # fmt: skip
Event = KnownEvent | UnknownEvent | InvalidEvent

_known: TypeAdapter[Any] = TypeAdapter(KnownEvent)


def decode_event(text: bytes) -> EventBase:
    """The event in a record's JSON text (without its frame). Never raises for what is in `text`."""
    try:
        event: EventBase = _known.validate_json(text)
        return event
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    try:
        if first["type"] == "union_tag_invalid":
            return UnknownEvent.model_validate_json(text)
    except ValidationError:
        pass
    place = ".".join(str(item) for item in first["loc"]) or "record"
    return InvalidEvent(time=0.0, text=text.decode("utf-8", "backslashreplace"), problem=f"{place}: {first['msg']}")


def record_fields(event: EventBase) -> dict[str, Any]:
    """The event as the fields of a record, kind first, defaults left out."""
    return {"kind": event.kind, **event.model_dump(mode="json", exclude_defaults=True)}  # type: ignore[attr-defined]


__all__ = [
    "AgentClosed", "AgentGivenUp", "AgentStarted", "Conservation", "ContactChanged", "ControlAccepted",
    "ControlDone", "ControlRequested", "Data", "Event", "EventBase", "ExecutionSubmitted", "ExecutorAttached",
    "InvalidEvent", "JobChanged", "JobSubmitted", "LauncherEnded", "LauncherGone", "LauncherStarted", "Log", "Loss",
    "Metric", "NodeLost", "OUTPUT_KIND", "Output", "Part", "Progress", "RankEnded", "RankStarted", "RanksContinued",
    "RanksStopped", "Result", "StateChanged", "TaskFailed", "UnknownEvent", "Usage", "decode_event",
    "record_fields",
]  # fmt: skip
