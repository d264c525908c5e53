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

LINE_BYTES = 32 * KIB
"""A longer line of a program's output is cut into several events at this length."""

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

PUNCH_BYTES = 1 * MIB
"""Acknowledged ranges of a spool file are given back to the file system in multiples of this."""

# --- journal -------------------------------------------------------------------------------
JOURNAL_BYTES = 20 * GIB
"""Default retention by size: the oldest ended executions go first."""

JOURNAL_AGE_S = 90 * 24 * 3600.0
"""Default retention by age of ended executions."""

JOURNAL_RETRY_S = 1.0
"""After a failed commit (a full disk) the same batches are tried again this often; nothing is
acknowledged meanwhile, so senders keep what they have."""

LISTING_ROWS = 1_000
"""Most executions in one answer to LIST; the newest come first."""

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
