"""Every bound in one place: name, unit, reason, and what happens when it is reached.

Sizes are bytes, durations seconds. Nothing else in the code keeps a number of this kind. `docs/limits.md` is made from
this file: the sections are its headings, what stands below a name is what people read there.
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
"""What is kept of a name, unit or short text in a report, and of a host's name in HELLO: enough for people, and a
record stays small. The rest is cut."""

BEGINNING_CHARACTERS = 4096
"""What a record shows of a text that is too long for it; the rest is in an attachment, or cut."""

NESTING = 64
"""A JSON value nested deeper is sent as an attachment: decoders refuse records that are deeply nested."""

PARTS = 100
"""Most parts of one payload, so that their descriptions fit into a record. With more the report is refused in the
Task, which is told so."""

HASHED_FILE_BYTES = 1 * GIB
"""A file given by reference is read for its digest up to this size, a matter of seconds; a larger one has none."""

LINE_BYTES = 16 * KIB
"""A longer line of a program's output is cut into several events at this length. (A byte that is no text
becomes up to six in JSON; the record must not get too large.)"""

RANKS = 1_000_000
"""Most ranks of an execution, and agents. The broker goes through them one by one. A submission of more is refused
as malformed."""

CONSERVED_STREAMS = 1000
"""Streams in one conservation record; more have several, for a record must stay below `RECORD_BYTES`."""

COUNT = 2**53
"""Largest count in an event: beyond it JSON's readers disagree, and sums get too long to be written down. An event with
a larger one is invalid: kept, and without effect."""

# --- wire ----------------------------------------------------------------------------------
BATCH_BYTES = 256 * KIB
"""Target body of one message: large enough to amortise a message, small enough not to block. What goes beyond it
goes into the next message."""

BATCH_EVENTS = 2000
"""Most events in one message, so that a reader's work on one message stays bounded. A sender begins another message;
a PUT with more is refused (`too_large`)."""

CHUNK_BYTES = 256 * KIB
"""Attachments travel in chunks of this size, so that control passes between them. A larger one is refused
(`malformed`)."""

MESSAGE_BYTES = 2 * MIB
"""ZMQ_MAXMSGSIZE of every socket: libzmq closes a connection that sends a larger frame."""

# --- windows -------------------------------------------------------------------------------
WINDOW_BYTES = 8 * MIB
"""What an agent or Executor may have sent and not yet acknowledged. The rest waits in its spool."""

CREDIT_BYTES = 4 * MIB
"""What a reader of a cursor may have been sent and not yet confirmed: a few messages, so that it never waits for the
broker. Beyond it the cursor waits for CREDIT, and reads on from the journal."""

PENDING_JOURNAL_BYTES = 256 * MIB
"""What the broker holds for the journal. Beyond it batches are dropped unacknowledged (the sender
keeps them and sends them again)."""

SEND_QUEUE_MESSAGES = 10_000
"""High-water mark of a client's socket, and of what comes in at the broker's. What does not fit waits in its
spool, or is asked again."""

PEER_QUEUE_MESSAGES = 1_000
"""High-water mark of the broker's ROUTER, per peer, as libzmq counts: messages. Honest peers stay far below it by
credit and windows. Full means a peer that does not read: events are given again from the journal,
acknowledgements and control are repeated each second, answers can be asked for again."""

PUBLISH_QUEUE_MESSAGES = 1_000
"""High-water mark of the publishing socket, per subscriber. A slow subscriber loses live messages and
repairs the gap from the journal."""

# --- spool ---------------------------------------------------------------------------------
SPOOL_BYTES = 1 * GIB
"""Undelivered bytes on one node for one execution. Beyond it log, metrics and output are dropped and
counted; signals and results still have `SPOOL_RESERVE_BYTES`."""

SPOOL_RESERVE_BYTES = 256 * MIB
"""Room above `SPOOL_BYTES` for signals and results only; a quarter of the bound where the launch sets a smaller
one."""

DISK_RESERVE_BYTES = 64 * MIB
"""When the spool's file system has less room than this (or than a quarter of its size, on a small one), log and
metrics are dropped and counted as if the spool had reached its bound: signals and results shall still get there."""

READ_BYTES = 256 * KIB
"""What is read from one spool file in one go, so that files take turns. The rest is read in the next turn."""

OUTPUT_READ_BYTES = 32 * KIB
"""The same for a program's output: an empty line of one byte becomes a record of 60."""

READ_ROOM_BYTES = 2 * MIB
"""Nothing is read from the spool with less room than this in the window: what one reading can become."""

PUNCH_BYTES = 1 * MIB
"""Acknowledged ranges of a spool file are given back to the file system in multiples of this: each costs a call.
What is less waits, and is on the disk beside what `SPOOL_BYTES` counts."""

PRESSURE_S = 0.05
"""How often an agent that is at work looks whether a bound is reached. A rank that logs as fast as it can writes
about 2 MB in this time."""

TAIL_BYTES = 64
"""What an agent compares before it reads on: the last bytes it has read, to see whether a program has truncated its
output and written as much again. They are not given back to the file system."""

CHECKPOINT_BYTES = 64 * KIB
"""Room of each of the two halves of an agent's checkpoint, allocated in advance: about 400 files. More are given more
room, if the disk has it; else the checkpoint stays as it is, and a second agent reads more again."""

OWN_RECORDS_BYTES = 64 * KIB
"""Allocated in advance for what an agent itself reports, so that a full disk does not silence it. More is written
where there is room, and waits for it where there is none (`REPORTS_HELD`)."""

# --- agent and launch ------------------------------------------------------------------------
LOOK_S = 1.0
"""An agent looks at its spool this often even if inotify tells nothing (some file systems tell nothing)."""

CHECKPOINT_S = 1.0
"""An agent writes its checkpoint at most this often; what a new agent reads again is dropped as known."""

BUSY_NAP_S = 0.002
"""After a message with `BUSY_EVENTS` or more an agent lets this much time pass before it reads on, so that
under load it sends few large messages. One event at a time never waits."""

BUSY_EVENTS = 8
"""From this many events in one message on, `BUSY_NAP_S` applies: fewer are no load, and go at once."""

DAMAGES_TOLD = 20
"""Damaged records in one reading of a spool file that are told one by one; more are told as one loss that counts
them."""

REPORTS_HELD = 1000
"""Reports of an agent that wait for room on the disk. Of further losses only the number is kept, and told as one."""

UNDELIVERED_S = 24 * 3600.0
"""An agent whose launch has died, and whose ranks have ended, ends when the broker has taken nothing for this long.
The spool stays, and it says how to deliver it."""

ATTACHMENT_PART_S = 3600.0
"""The file of an attachment that nobody has finished writing is removed when it is this old: its writer has died."""

AGENT_PAUSE_S = 0.2
"""Before an agent that died is started again; twice as long after each further death."""

AGENT_RESTARTS = 5
"""So often in succession an agent that dies is started again; then its spool stays as it is."""

AGENT_READY_S = 20.0
"""An agent says within this time that the broker has welcomed it (it gives up itself after `CONNECT_S`)."""

NODES_READY_S = 60.0
"""So long after its command was started a node has to say that its agent was welcomed by the broker: ssh or srun, a
Python that is loaded from a cold file system, then `AGENT_READY_S`. Then the launch ends, naming the node; no rank was
started."""

NODES_CLEAR_S = 10.0
"""So long after the ranks' end a node has to say that nothing of them is left on its machine, which takes up to
`LEAVE_S` and `LEFTOVER_S`. Then it counts as lost."""

NODE_LOOK_S = 60.0
"""How often, while ranks run, `theorbo launch` looks whether a machine answers whose node was lost: its ranks may run
on. It has `NODES_READY_S` for its answer; without one the launcher gets `SIBLINGS_S` to end by itself, then it is
ended."""

HEADLESS_S = 60.0
"""A node whose launch has died before any rank was seen there waits this long for ranks that may be on their way. Then
it delivers what there is, and ends."""

SCHEDULER_ANSWER_S = 5.0
"""How long `theorbo launch` waits for what the batch scheduler says of its job (scontrol), once, at its end. Without an
answer it ends without."""

KILL_WAIT_RESERVE_S = 5.0
"""When a batch scheduler ends everything by SIGTERM, and by SIGKILL a while later (Slurm's KillWait), ranks have this
much less time than that, or half of it where it is short: the rest is for delivering what they leave."""

AGENT_STEADY_S = 60.0
"""An agent that has lived this long makes its earlier restarts forgotten."""

SIBLINGS_S = 40.0
"""After a rank ended badly its launcher has this long to end the others: hydra takes 0.01 s, mpirun 0.5 s,
srun -K Slurm's KillWait, which is 30 s by default. Then the launcher and all ranks are ended."""

LAUNCHER_END_S = 10.0
"""When all ranks have gone, or are being killed, their launcher has this long to end by itself; mpiexec tidies up.
Then it gets SIGKILL."""

LEAVE_S = 0.5
"""Processes that are left in a rank's process group after its end have this long to go by themselves
(helpers of Python's multiprocessing do). Then they get SIGTERM."""

LEFTOVER_S = 2.0
"""What is left in a rank's process group this long after SIGTERM gets SIGKILL: the rank has ended, and nobody waits
for its helpers."""

LAUNCHER_STDERR_BYTES = 8 * KIB
"""What is kept of the end of the launcher's own output, for its end record: the last lines say why. What was before is
dropped."""

USAGE_S = 10.0
"""How often an agent reports what the ranks of its node use: seen on a plot, and a thousandth of a core for a hundred
ranks. While log and metrics are dropped for want of room it is not reported."""

USAGE_RANKS = 100
"""Ranks of a node that one report of usage lists, so that it stays small: half of them those that have been quiet for
longest, half those that use most memory. The sums are over all."""

TIME_LIMIT_SLACK_S = 5.0
"""So long after a time limit an agent ends the ranks itself, if nobody has asked for it: the Executor that should have
may be gone, or cut off. Where it is there it asks first: one request, and not one of each node."""

END_S = 5.0
"""After SIGKILL processes of ranks have this long to be gone: those that wait for a dead file system do not go. Then
the request is answered as not carried out, naming them; SIGKILL goes on being sent."""

STOP_S = 5.0
"""Ranks that are to stop, or to go on, are seen to do so within milliseconds, unless a process waits in the kernel.
After this long the request is answered as not carried out, naming the processes."""

STACKS_S = 5.0
"""Stacks are asked for within this time, or it is answered that they could not be."""

FIRST_LOOK_S = 0.02
"""After something was done to ranks their processes are looked at after this long, then after pauses that are twice as
long each, up to `LOOK_S`: reading the process table costs 0.1 ms a process."""

PROCESSES_TOLD = 20
"""Processes of ranks that an answer names one by one, for it has to fit into a line or two; of more it tells the
number."""

# --- journal -------------------------------------------------------------------------------
JOURNAL_BYTES = 20 * GIB
"""Default retention by size: what a small disk can spare. Beyond it the oldest ended executions go first; open ones
stay, whatever their size."""

JOURNAL_AGE_S = 90 * 24 * 3600.0
"""Default retention by age of ended executions: a run period of a facility. Older ones are removed, with their
attachments."""

JOURNAL_RETRY_S = 1.0
"""After a failed commit (a full disk) the same batches are tried again this often; nothing is
acknowledged meanwhile, so senders keep what they have."""

BROKER_LOG_BYTES = 1 * MIB
"""A user's own broker that is started and finds a longer log puts it aside as broker.log.1, and the one before
goes: nobody else rotates it."""

LISTING_ROWS = 1_000
"""Most executions in one answer to LIST, which has to fit into a message; the newest come first, and who wants older
ones names experiment, run or task."""

# --- observers -----------------------------------------------------------------------------
HELD_BYTES = 16 * MIB
"""What an observer holds back of live batches while what comes before them is read from the journal.
What has no room is dropped, and read from the journal as well."""

HELD_OVERHEAD_BYTES = 512
"""What a batch that is held back (by an observer, or by the broker for its journal) counts for beside its body, so
that many small ones are bounded too."""

REPAIRS_AT_ONCE = 4
"""Most ranges that an observer reads at the same time; further gaps wait for their turn."""

REPAIR_CREDIT_BYTES = 1 * MIB
"""What an observer may be sent of one range and has not yet processed; small, for `REPAIRS_AT_ONCE` come at once. The
rest waits at the broker for its CREDIT."""

REPAIR_TRIES = 3
"""So often a range is read without anything of its beginning; then the gap is told as missed. Once could be a journal
that is just being recovered."""

OBSERVED_EXECUTIONS = 10_000
"""Executions whose positions an observer remembers. The oldest that the beacon no longer names go first."""

LATEST_S = 1.0
"""With `tail --latest`: log, metrics and output that have waited for longer at a reader who is too slow for them are
left out and told. Less would tear holes where a reader pauses for a moment."""

VIEWS_AT_ONCE = 16
"""Most executions that an observer asks after (LIST) per beacon, when it does not know their names, so that a
broker with many is not flooded. The rest is asked for after the next beacon."""

VERIFIED_STREAMS = 100_000
"""Streams of which a verification keeps account. Events of further ones are counted, and the verdict is that they were
not checked."""

VERIFIED_GAPS = 100
"""Gaps of one stream that a verification knows exactly, and losses that may explain them. Of further ones only the
number of events is kept, and they count as not told."""

RESULTS_PAGE = 50
"""Results that are read from the journal in one go, so that at most this many records are in memory."""

# --- requests -----------------------------------------------------------------------------------
RECEIPT_S = 10.0
"""Whoever has requested something of an execution waits this long for an agent to say that it has begun, and this much
longer than the deadline it has stated for its last word. Then the command ends and names who has not answered; what was
requested stands."""

RECEIPT_MOST_S = 24 * 3600.0
"""An agent that states a deadline further away than this is believed this much."""

SETTLE_S = 3.0
"""When all nodes have carried out a stop (or continue), the state STOPPED (RUNNING) is waited for this long: it follows
at once, but not where ranks have not started yet or have ended meanwhile."""

STACKS_QUIET_S = 1.0
"""When all nodes have done their part for stack dumps, and no further line of one has come for this long, there are no
more: ranks write them at once, and their agents look each second. Lines that do not cease are listened to for
`RECEIPT_S`."""

# --- Executor ------------------------------------------------------------------------------
PARAMETERS_BYTES = 64 * KIB
"""Largest JSON text of a Task's parameters: Linux takes 128 KiB in one environment variable, and the
submission has to fit into a record. Larger input belongs into a file that a parameter names."""

PROVENANCE_VALUE_BYTES = 4 * KIB
"""A longer environment variable or argument is cut in the submission; the Task gets the whole."""

PROVENANCE_COMMAND_BYTES = 16 * KIB
"""A longer command line is cut in the submission; the Task gets the whole."""

OUTCOME_RESULTS = 1_000
"""Results that an Executor keeps in memory for its outcome, the first ones; the rest are in the journal."""

OUTCOME_LINES = 8
"""Results that `theorbo run` names at its end, so that they fit on a screen; of the rest it tells the number."""

PROGRESS_BARS = 16
"""Ranks that have a progress bar of their own on a terminal; the others share one."""

PROGRESS_LINE_S = 1.0
"""For people, the progress of one rank, or one metric of it, becomes a line this often at most; the last
one always."""

PREFLIGHT_S = 120.0
"""How long a Task may take to be imported before anything is started (large packages on cold file systems). Then
the run is refused, and nothing was submitted."""

SHELL_SOURCE_S = 120.0
"""How long a sourced shell script may take; activating an environment on a cold file system is slow. Then the run is
refused."""

PROBE_S = 5.0
"""How long the Executor waits for what git or mpiexec say of themselves, on a slow file system. Then it goes on
without."""

LET_GO_S = 5.0
"""Whoever takes over from an Executor on the same machine waits this long for it to close its spool; it notices
within a second or two. One that does not is stopped or hangs, and is named."""

LAUNCHER_WORD_S = 3.0
"""When the launcher's process has ended, an agent may still have its last record; the Executor waits this
long for it, while the broker is heard, before it reports that the launcher is gone."""

DETACH_S = 15.0
"""With --detach, so long after an agent has taken over the Executor waits for all ranks to run; then it lets go
of an execution that is still PENDING. Ranks start within a second, thousands on a cold file system do not."""

KILL_WAIT_S = 10.0
"""A launcher that lives this long after everything should have been killed is told to end itself: by SIGTERM to its
process, for what went through the broker has had no effect."""

QUEUE_POLL_S = 15.0
"""How often a batch scheduler's queue is asked, for all executions of a user together: more often is bad manners on a
login node. What changes meanwhile is heard by the bus, or seen so much later."""

QUEUE_LOCK_S = 60.0
"""Who is asking the queue for all of a user's Executors, and has not answered for this long, is stopped or hangs:
another one asks."""

QUEUE_ANSWER_S = 30.0
"""How long squeue, scontrol and scancel may take. A controller that is busy answers later: it is asked again at the
next poll, and nothing is concluded from its silence."""

SUBMIT_S = 60.0
"""How long sbatch may take. Then the queue is looked through for the job, which may have got there nevertheless."""

SSH_ALIVE_S = 5.0
"""How often ssh asks whether the other machine is still there; after three times without an answer it gives up, and the
launcher with it."""

JOB_FOUND_S = 40.0
"""So long a job whose sbatch has not answered is looked for in the queue (two polls) before it is believed not to have
been submitted."""

# --- broker --------------------------------------------------------------------------------
LIVE_BYTES = 64 * KIB
"""Records in one live message, unless it is a single record: subscribers take small steps. A larger batch is
published in pieces."""

JOURNAL_READ_BYTES = 1 * MIB
"""What is read from the journal for one cursor in one go, so that cursors and senders take turns."""

SCAN_SEQUENCES = 10_000
"""How much of the journal a READ for one cursor looks through in one go, so that one that finds little (a rare
channel of a large journal) does not keep everybody waiting. It goes on in its next turn."""

READS_PER_PEER = 100
"""READs of one peer at the same time; more are refused. An observer needs one and `REPAIRS_AT_ONCE`."""

READS = 10_000
"""READs of all peers at the same time; more are refused (`busy`). Each commit goes through them all."""

PEER_CREDIT_BYTES = 16 * MIB
"""Credit of all READs of one peer together. What a READ or a CREDIT asks for beyond it, or beyond `CREDIT_BYTES`
for one READ, is not granted; one batch may be under way in any case, so no reader waits for ever."""

FETCHES_PER_PEER = 16
"""FETCHes of one peer that wait for their answer, one of them being read from disk; more are refused (`busy`)."""

CHUNKS_PENDING_BYTES = 64 * MIB
"""Chunks of attachments that the broker holds until they are written; what comes beyond it is dropped without an
answer, and the sender, who keeps it, sends it again. As much is read from disk for all FETCHes at the same time;
the others wait for their turn."""

OBSERVERS = 2_000
"""Observers that one broker talks with at the same time; more are refused (`busy`). Those that went without a
word make room when they have been silent for as long as makes an execution lost."""

SESSIONS = 20_000
"""Peers of all roles that one broker talks with at the same time; more are refused (`busy`). Ten times the
observers, so that these never keep an agent or an Executor out."""

OPEN_EXECUTIONS = 10_000
"""Executions that are not at their end; further submissions are refused (`busy`)."""

ENDED_IN_MEMORY = 1_000
"""Ended executions that the broker keeps in memory at most; the first that had their end make room."""

STREAMS = 100_000
"""Streams of one execution: six of each of 16,000 ranks. What would begin another is refused (`too_large`)."""

LOSSES_AHEAD = 100
"""Losses of one stream that the broker remembers until the stream has come so far; of more it forgets those that
are furthest ahead, and REWIND makes the sender report them again."""

CONTROLS = 100
"""Requests for an end of one execution that an agent is told of when it says HELLO, and tokens by which the broker
recognises a REQUEST that is asked again; the last ones count."""

REQUESTS_UNDER_WAY = 1_000
"""REQUESTs that wait for the journal, of all clients together; more are refused (`busy`)."""

GRACE_MOST_S = 24 * 3600.0
"""Longest time between SIGTERM and SIGKILL that a REQUEST may ask for: no checkpoint takes a day. One with more is
refused (`malformed`)."""

GIVEN_UP_AT_ONCE = 100
"""Agents of lost nodes that are given up in one second, and contacts that are told: the broker's own words are few at
a time. The others follow in the next second."""

SUBSCRIPTIONS = 10_000
"""Subscriptions that one connection to the publishing socket sends in all its life. The one that sends more is
closed; an honest client connects again, and repairs from the journal what it has missed."""

CONNECTIONS_REMEMBERED = 10_000
"""Connections whose subscriptions are counted; those that have subscribed least lately are forgotten first."""

SUBSCRIPTION_BYTES = 16 * KIB
"""Longest topic of a subscription, with room for the longest names in UTF-8; libzmq closes the connection of who
sends a longer one."""

HOSTS_SHOWN = 100
"""Hosts of agents and nodes that a view of an execution names, and peers whose contact it tells, those not heard
first. A listing has to fit into a message."""

SILENT_RANK_S = 60.0
"""A rank that runs and of which nothing has come for this long is named in the view of its execution. Most of them
only compute; but where one of many hangs it is the one that is silent."""

SILENT_RANKS_SHOWN = 8
"""Silent ranks that a view names, those silent for longest: the first one is what people look for."""

REFUSED_ORIGINS = 1_000
"""Origins for which refusals are counted one by one; those of more are counted together as `others`."""

COMMIT_BYTES = 16 * MIB
"""What goes into one transaction at most: more makes acknowledgements wait and gains nothing. The rest goes into the
next one."""

RECEIVED_AT_ONCE = 1_000
"""Messages that a client takes from its socket before it is somebody else's turn; what is left waits in the socket."""

MESSAGES_AT_ONCE = 200
"""Messages taken from a socket before the broker looks after commits, cursors and time; what is left waits in the
socket."""

REWIND_S = 1.0
"""A sender is told of one gap this often at most: what was under way behind it would each tell it again."""

REFUSAL_CHARACTERS = 1000
"""Longest sentence in REFUSED and in the log about it; it is cut there. What was refused is not sent back."""

REWINDS_REMEMBERED = 10_000
"""Streams of which the broker remembers when a gap was told. If there are more it forgets all, and tells again."""

REFUSALS_LOGGED = 20
"""Refusals written to the log between two ticks; all are counted. A mad client must not fill a disk."""

RECENT_S = 60.0
"""An ended execution stays in memory and in the beacon this long after its last change."""

RETENTION_S = 60.0
"""How often the journal looks whether something has to go: until then it may be larger or older than retention has
it."""

CLOCK_JUMP_S = 24 * 3600.0
"""A clock that is this much ahead of the journal's last commit and the time since may be wrong: nothing is removed
for its age by it before `CLOCK_TRUST_S`."""

CLOCK_TRUST_S = 24 * 3600.0
"""A clock that has been ahead for this long is believed: somebody would have set it right."""

RECOVERED_SEQUENCES = 1_000_000_000
"""Sequences that are skipped when a damaged journal is recovered, or a backup put into service: more than were ever
given after the last one that is left, so that none is given twice. (They have 63 bits.)"""

RETENTION_ROWS = 200
"""Rows removed in one transaction, so that commits wait for milliseconds only. The rest goes in further ones."""

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
"""How long a broker that ends, or a client that says BYE, waits for its last messages to be taken. What the others miss
is asked for or sent again, or found out by silence."""

HANDSHAKE_S = 30.0
"""A connection on which ZMTP's and CURVE's handshake is not finished within this time is closed: slow networks need a
second, and who says nothing holds a descriptor of the broker."""

# --- doctor -------------------------------------------------------------------------------------
DOCTOR_S = 3.0
"""So long `theorbo doctor` waits for each thing that may not answer: a connection, a broker, another Python. TCP sends
its first packet twice in this time."""

CLOCK_WARNING_S = 2.0
"""A clock that is further away from the broker's than this makes `theorbo doctor` warn: events of different machines
then seem to come in another order than they did."""

CLOCK_TROUBLE_S = 60.0
"""A clock that is further away than this is trouble: nobody finds in `theorbo tail --since` what he looks for."""

OPEN_FILES = 1024
"""Fewer open files than this for a process make `theorbo doctor` warn: an agent has three or four for each rank of its
node."""

PROCESSES = 1024
"""Fewer processes than this for a user make `theorbo doctor` warn: each rank takes two, and threads count."""

# --- time ----------------------------------------------------------------------------------
HEARTBEAT_S = 1.0
"""An idle peer says PING this often; the broker's beacon has the same rhythm."""

SUSPECT_S = 5.0
"""A peer not heard of for this long is suspect: several heartbeats are missing. Being suspect never ends work; a client
looks for the broker anew."""

DEAD_CONNECTION_S = 10.0
"""A connection whose other end has been gone, or has read nothing of what waits for it, for this long is given up."""

SILENT_S = 15.0
"""A peer not heard of for this long is silent: longer than a restart or a short cut of the network takes. People see
it in `theorbo ps`; nothing is ended for it."""

LOST_S = 120.0
"""An execution all of whose peers have been silent for this long is LOST. Default of the broker's setting
`lost_after_s`."""

ANSWER_S = 5.0
"""How long a client waits for an answer before it tries again or says that there is none. A broker answers within
milliseconds, unless it has just been restarted."""

RESEND_S = 10.0
"""A sender whose messages have brought no acknowledgement for this long sends them again."""

CONNECT_S = 10.0
"""How long a client tries to reach a broker, over all its addresses, before it gives up and says what it tried. Agents
and Executors that were welcomed once go on trying."""

TRY_S = 1.0
"""While a client waits for its first answer the connection file is read again this often: the broker may be moving. So
long a user's own broker has to answer, too, before another one is started."""

STAGGER_S = 0.25
"""A client tries the next address of a broker when the one before has not answered for this long (as RFC 8305 has it
for web browsers): a dead one costs no more, and where the first answers the others are not bothered."""

SEARCH_S = 0.1
"""A client that looks for a broker that has fallen silent waits this long for an answer at once, and looks again each
second: it has other things to do."""

ADDRESSES = 32
"""Addresses of one broker that a client tries: names may stand for many. Further ones are left out."""

NAMES_ASKED = 16
"""Names of one connection file that a client looks up at the same time, each in a thread; further ones are left out."""

MISSING_FILE_S = 3.0
"""A connection file that is named, and is not there, is waited for: a broker that is being restarted takes it along and
writes it again. Longer only makes those wait who have mistyped its name."""

RECONNECT_S = 0.1
"""Before a client's connection that has ended is made again, and between two looks for a missing connection file. Each
further try waits twice as long."""

RECONNECT_MOST_S = 2.0
"""The longest of these waits: a broker that is back is found within it, and thousands of clients of one that is away
cost nothing."""

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL when a Task is cancelled or has reached its time limit: time for a checkpoint, and not
longer than people wait."""

DRAIN_S = 120.0
"""How long `theorbo launch` waits for its agents to deliver what is left after the ranks have ended. Then it says
where the spool lies, which stays."""

GOODBYE_S = 5.0
"""How long a broker that was told to end goes on committing and answering what it has accepted. What is not on disk
by then was not acknowledged: its senders have it."""
