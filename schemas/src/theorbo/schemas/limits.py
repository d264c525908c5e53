"""Every bound in one place: name, unit, reason, and what happens when it is reached.

Sizes are bytes, durations seconds. Nothing else in the code keeps a number of this kind.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- records and attachments ---------------------------------------------------------------
INLINE_BYTES = 64 * KIB
"""A value larger than this leaves its record and becomes an attachment, so that small things are
never held up behind big ones on the publishing socket."""

RECORD_BYTES = 128 * KIB
"""Largest record on the wire. A larger one in a spool is skipped and reported as a loss."""

ATTACHMENT_BYTES = 64 * MIB
"""Largest attachment that goes over the wire. Larger payloads are refused by the runtime, which
names `Path` (a reference to a file on a shared file system) as the way out."""

NAME_CHARACTERS = 200
"""What is kept of a name, unit or short text in a report: enough for people, and a record stays small."""

BEGINNING_CHARACTERS = 4096
"""What a record shows of a text that is too long for it; the rest is in an attachment, or cut."""

NESTING = 64
"""A JSON value nested deeper is sent as an attachment: decoders refuse records that are deeply nested."""

PARTS = 100
"""Most parts of one payload, so that their descriptions fit into a record."""

HASHED_FILE_BYTES = 1 * GIB
"""A file given by reference is read for its digest up to this size, a matter of seconds; a larger one has none."""

LINE_BYTES = 16 * KIB
"""A longer line of a program's output is cut into several events at this length. (A byte that is no text
becomes up to six in JSON; the record must not get too large.)"""

RANKS = 1_000_000
"""Most ranks of an execution, and agents. The broker goes through them one by one."""

CONSERVED_STREAMS = 1000
"""Streams in one conservation record; more have several, for a record must stay below `RECORD_BYTES`."""

COUNT = 2**53
"""Largest count in an event: beyond it JSON's readers disagree, and sums get too long to be written down."""

# --- wire ----------------------------------------------------------------------------------
BATCH_BYTES = 256 * KIB
"""Target body of one message: large enough to amortise a message, small enough not to block."""

BATCH_EVENTS = 2000
"""Most events in one message, so that a reader's work on one message stays bounded."""

CHUNK_BYTES = 256 * KIB
"""Attachments travel in chunks of this size, so that control passes between them."""

MESSAGE_BYTES = 2 * MIB
"""ZMQ_MAXMSGSIZE of every socket: libzmq closes a connection that sends a larger frame."""

# --- windows -------------------------------------------------------------------------------
WINDOW_BYTES = 8 * MIB
"""What an agent or Executor may have sent and not yet acknowledged. The rest waits in its spool."""

CREDIT_BYTES = 4 * MIB
"""What a reader of a cursor may have been sent and not yet confirmed."""

PENDING_JOURNAL_BYTES = 256 * MIB
"""What the broker holds for the journal. Beyond it batches are dropped unacknowledged (the sender
keeps them and sends them again)."""

SEND_QUEUE_MESSAGES = 10_000
"""High-water mark of the broker's sockets, per peer. A full ROUTER queue means a peer that stopped
reading: what is sent by acknowledgement, cursor or request can be asked for again."""

PUBLISH_QUEUE_MESSAGES = 1_000
"""High-water mark of the publishing socket, per subscriber. A slow subscriber loses live messages and
repairs the gap from the journal."""

# --- spool ---------------------------------------------------------------------------------
SPOOL_BYTES = 1 * GIB
"""Undelivered bytes on one node for one execution. Beyond it log, metrics and output are dropped and
counted; signals and results still have `SPOOL_RESERVE_BYTES`."""

SPOOL_RESERVE_BYTES = 256 * MIB
"""Room above `SPOOL_BYTES` for signals and results only."""

READ_BYTES = 256 * KIB
"""What is read from one spool file in one go, so that files take turns."""

OUTPUT_READ_BYTES = 32 * KIB
"""The same for a program's output: an empty line of one byte becomes a record of 60."""

READ_ROOM_BYTES = 2 * MIB
"""Nothing is read from the spool with less room than this in the window: what one reading can become."""

PUNCH_BYTES = 1 * MIB
"""Acknowledged ranges of a spool file are given back to the file system in multiples of this."""

OWN_RECORDS_BYTES = 64 * KIB
"""Allocated in advance for what an agent itself reports, so that a full disk does not silence it."""

# --- agent and launch ------------------------------------------------------------------------
LOOK_S = 1.0
"""An agent looks at its spool this often even if inotify tells nothing (some file systems tell nothing)."""

CHECKPOINT_S = 1.0
"""An agent writes its checkpoint at most this often; what a new agent reads again is dropped as known."""

BUSY_NAP_S = 0.002
"""After a message with `BUSY_EVENTS` or more an agent lets this much time pass before it reads on, so that
under load it sends few large messages. One event at a time never waits."""

BUSY_EVENTS = 8
"""See `BUSY_NAP_S`."""

AGENT_RESTARTS = 5
"""So often in succession an agent that dies is started again; then its spool stays as it is."""

AGENT_READY_S = 20.0
"""An agent says within this time that the broker has welcomed it (it gives up itself after `CONNECT_S`)."""

AGENT_STEADY_S = 60.0
"""An agent that has lived this long makes its earlier restarts forgotten."""

SIBLINGS_S = 40.0
"""After a rank ended badly its launcher has this long to end the others: hydra takes 0.01 s, mpirun 0.5 s,
srun -K Slurm's KillWait, which is 30 s by default. Then the launcher and all ranks are ended."""

LAUNCHER_END_S = 10.0
"""When all ranks have gone, or are being killed, their launcher has this long to end by itself."""

LEAVE_S = 0.5
"""Processes that are left in a rank's process group after its end have this long to go by themselves
(helpers of Python's multiprocessing do). Then they get SIGTERM."""

LEFTOVER_S = 2.0
"""What is left in a rank's process group this long after SIGTERM gets SIGKILL."""

LAUNCHER_STDERR_BYTES = 8 * KIB
"""What is kept of the end of the launcher's own output, for its end record."""

# --- journal -------------------------------------------------------------------------------
JOURNAL_BYTES = 20 * GIB
"""Default retention by size: the oldest ended executions go first."""

JOURNAL_AGE_S = 90 * 24 * 3600.0
"""Default retention by age of ended executions."""

JOURNAL_RETRY_S = 1.0
"""After a failed commit (a full disk) the same batches are tried again this often; nothing is
acknowledged meanwhile, so senders keep what they have."""

BROKER_LOG_BYTES = 1 * MIB
"""A user's own broker that is started and finds a longer log puts it aside as broker.log.1."""

LISTING_ROWS = 1_000
"""Most executions in one answer to LIST; the newest come first."""

# --- observers -----------------------------------------------------------------------------
HELD_BYTES = 16 * MIB
"""What an observer holds back of live batches while what comes before them is read from the journal.
What has no room is dropped, and read from the journal as well."""

HELD_OVERHEAD_BYTES = 512
"""What a batch that is held back counts for beside its body, so that many small ones are bounded too."""

REPAIRS_AT_ONCE = 4
"""Most ranges that an observer reads at the same time; further gaps wait for their turn."""

REPAIR_CREDIT_BYTES = 1 * MIB
"""What an observer may be sent of one range and has not yet processed."""

REPAIR_TRIES = 3
"""So often a range is read without anything of its beginning; then the gap is told."""

OBSERVED_EXECUTIONS = 10_000
"""Executions whose positions an observer remembers. The oldest that the beacon no longer names go first."""

VIEWS_AT_ONCE = 16
"""Most executions that an observer asks after (LIST) per beacon, when it does not know their names."""

RESULTS_PAGE = 50
"""Results that are read from the journal in one go, so that at most this many records are in memory."""

# --- Executor ------------------------------------------------------------------------------
PARAMETERS_BYTES = 64 * KIB
"""Largest JSON text of a Task's parameters: Linux takes 128 KiB in one environment variable, and the
submission has to fit into a record. Larger input belongs into a file that a parameter names."""

PROVENANCE_VALUE_BYTES = 4 * KIB
"""A longer environment variable or argument is cut in the submission; the Task gets the whole."""

PROVENANCE_COMMAND_BYTES = 16 * KIB
"""A longer command line is cut in the submission; the Task gets the whole."""

OUTCOME_RESULTS = 1_000
"""Results that an Executor keeps for its outcome; the rest are in the journal."""

OUTCOME_LINES = 8
"""Results that `theorbo run` names at its end."""

PROGRESS_BARS = 16
"""Ranks that have a progress bar of their own on a terminal; the others share one."""

PROGRESS_LINE_S = 1.0
"""For people, the progress of one rank, or one metric of it, becomes a line this often at most; the last
one always."""

PREFLIGHT_S = 120.0
"""How long a Task may take to be imported before anything is started (large packages on cold file systems)."""

SHELL_SOURCE_S = 120.0
"""How long a sourced shell script may take; activating an environment on a cold file system is slow."""

PROBE_S = 5.0
"""How long the Executor waits for what git or mpiexec say of themselves."""

LAUNCHER_WORD_S = 3.0
"""When the launcher's process has ended, an agent may still have its last record; the Executor waits this
long for it, while the broker is heard, before it reports that the launcher is gone."""

DETACH_S = 15.0
"""With --detach, so long after an agent has taken over the Executor waits for all ranks to run; then it lets go
of an execution that is still PENDING. Ranks start within a second, thousands on a cold file system do not."""

KILL_WAIT_S = 10.0
"""A launcher that lives this long after everything should have been killed is told to end itself."""

# --- broker --------------------------------------------------------------------------------
LIVE_BYTES = 64 * KIB
"""Records in one live message, unless it is a single record: subscribers take small steps."""

JOURNAL_READ_BYTES = 1 * MIB
"""What is read from the journal for one cursor in one go, so that cursors and senders take turns."""

READS_PER_PEER = 100
"""READs of one peer at the same time; more are refused. An observer needs one and `REPAIRS_AT_ONCE`."""

COMMIT_BYTES = 16 * MIB
"""What goes into one transaction at most: more makes acknowledgements wait and gains nothing."""

MESSAGES_AT_ONCE = 200
"""Messages taken from a socket before the broker looks after commits, cursors and time."""

REWIND_S = 1.0
"""A sender is told of one gap this often at most: what was under way behind it would each tell it again."""

REFUSALS_LOGGED = 20
"""Refusals written to the log between two ticks; all are counted. A mad client must not fill a disk."""

RECENT_S = 60.0
"""An ended execution stays in memory and in the beacon this long after its last change."""

RETENTION_S = 60.0
"""How often the journal looks whether something has to go."""

RETENTION_ROWS = 200
"""Rows removed in one transaction, so that commits wait for milliseconds only."""

PART_S = 24 * 3600.0
"""An attachment of which a part has come is given up when nothing more has come for this long."""

PROMISE_S = 60.0
"""An attachment is not removed this long after a sender was told that it is there: the record that refers to
it may be on its way."""

EMBEDDED_IDLE_S = 5.0
"""A broker that was started for one user's own runs ends when nobody has been heard for this long and no
execution is open. Short, for nobody misses it: the next run starts another."""

HANDOVER_S = 8.0
"""How long `theorbo broker` waits for such a broker to end: a little longer than that takes when idle."""

LAST_CALL_S = 0.1
"""Between removing its connection file and ending, such a broker listens this long for somebody who had
just read the file."""

GOODBYE_LINGER_S = 0.5
"""How long a broker that ends waits for its last messages to be taken by its peers."""

# --- time ----------------------------------------------------------------------------------
HEARTBEAT_S = 1.0
"""An idle peer says PING this often; the broker's beacon has the same rhythm."""

SUSPECT_S = 5.0
"""A peer not heard of for this long is suspect. Being suspect never ends work."""

SILENT_S = 15.0
"""A peer not heard of for this long is silent."""

LOST_S = 120.0
"""An execution all of whose peers have been silent for this long is LOST."""

ANSWER_S = 5.0
"""How long a client waits for an answer before it tries again or says that there is none."""

RESEND_S = 10.0
"""A sender whose messages have brought no acknowledgement for this long sends them again."""

CONNECT_S = 10.0
"""How long a client tries to reach a broker, over all its addresses, before it gives up."""

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL when a Task is cancelled or has reached its time limit."""

DRAIN_S = 120.0
"""How long `theorbo launch` waits for its agents to deliver what is left after the ranks have ended."""

GOODBYE_S = 5.0
"""How long a broker that was told to end goes on committing and answering what it has accepted."""
