"""What runs on the compute nodes: ranks with their thin parents, the launcher, and whoever starts agents again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from theorbo.schemas.limits import DRAIN_S
from theorbo.schemas.names import LAUNCHER, Channel, Source, SourceKind

from .agent_party import AgentParty
from .plan import ExecutionPlan, RankPlan
from .scheduler import Process
from .spool import Reporter, Spool

if TYPE_CHECKING:
    from .executor_party import ExecutorParty
    from .world import World


AGENT_RESTARTS_HERE = 30
"""An agent that is refused is started again so often: by the launcher, then by people who look after their spools."""


class Rank(Process):
    """One rank: its program and its thin parent."""

    def __init__(self, world: World, node: Node, number: int, plan: RankPlan) -> None:
        super().__init__(world.scheduler, node.host, f"rank-{number}")
        self._world = world
        self._node = node
        self._plan = plan
        self._ended = False
        self.number = number
        self.pid = 100 + 2 * world.network.next_number()
        self.reporter = Reporter(node.spool, Source(SourceKind.RANK, number), lambda: self.wall)
        started = {"parent_pid": self.pid - 1, "process_group": self.pid, "start_ticks": self.pid}
        self.reporter.report("rank_started", reserved=True, pid=self.pid, host=node.host_name, **started)
        self._do(0)

    def _do(self, place: int) -> None:
        if place < len(self._plan.actions):
            delay_s, kind, text = self._plan.actions[place]
            self.after(delay_s, self._act, kind, text, place)
        elif not self._plan.hangs:
            self.after(0.01, self.end, self._plan.exit_code, self._plan.signal)

    def _act(self, kind: str, text: str, place: int) -> None:
        report = self.reporter.report
        match kind:
            case "log":
                report("log", text=text)
            case "metric":
                report("metric", name="loss", value=float(place))
            case "progress":
                report("progress", done=place, total=len(self._plan.actions))
            case "result":
                report("result", name=f"result {place}", summary=text)
            case "attached":
                content = text.encode() * 300
                stored = self.reporter.store(content)
                if stored:
                    part = {"mime": "application/octet-stream", **stored._asdict()}
                    report("data", name="image", parts=[part], attachments=[stored._asdict()])
            case "stdout" | "stderr":
                self.reporter.print(Channel[kind.upper()], text.encode())
            case "task_failed":
                report("task_failed", error=text)
        self._do(place + 1)

    def end(self, exit_code: int | None, signal_name: str | None) -> None:
        """The program has ended, and its thin parent says so."""
        if self._ended:
            return
        self._ended = True
        if signal_name and self._plan.tears:
            self._world.count("torn write")
            self.reporter.torn()
        self.reporter.tell_losses(reserved=True)
        fields = {"signal": signal_name} if signal_name else {"exit_code": exit_code}
        self.reporter.report("rank_ended", reserved=True, **fields)
        self.alive = False
        self._node.rank_ended(self)

    @property
    def stopped(self) -> bool:
        """Whether its program is held; its thin parent is not."""
        return self.frozen

    def signalled(self, number: int) -> None:
        if number == signal.SIGKILL:
            self.end(None, "SIGKILL")
        elif number == signal.SIGSTOP:
            if not self.frozen:
                self.freeze()
        elif number == signal.SIGCONT:
            self.thaw()
        elif number == signal.SIGTERM and not self._plan.ignores_sigterm:
            self.after(0.2, self.end, None, "SIGTERM")


class Node:
    """One node of an execution: a spool, ranks, an agent."""

    def __init__(self, world: World, job: Job, index: int) -> None:
        self.world = world
        self.job = job
        self.index = index
        self.execution_number = job.number
        self.host = world.host(f"node-{job.number}-{index}")
        self.host_name = f"node-{job.number}-{index}"
        self.spool = Spool(world.scheduler, world.checks, job.execution)
        self.living_ranks: dict[int, Rank] = {}
        self.agent: AgentParty | None = None
        self.closed = False
        self.lost = False
        """Whether the launcher has lost it; it may live on."""
        self.told_lost = False
        """Whether the launcher has said so."""
        self.dead = False
        self.restarts = 0

    @property
    def given_up(self) -> bool:
        """The broker does not know the execution, and nobody is left who could submit it again: the spool stays."""
        return self.restarts >= AGENT_RESTARTS_HERE

    def start_agent(self) -> None:
        if not self.closed and not self.dead:
            self.agent = AgentParty(self.world, self.host, self, alone=self.lost or not self.job.launcher_lives)

    def agent_ready(self) -> None:
        self.job.agent_ready(self)

    def agent_ended(self, agent: AgentParty, code: str) -> None:
        """It closed, or the broker refused it for good."""
        if not code:
            self.closed = True
            if agent.core.delivery.journal != self.world.disk.identity:  # it ended before it could hear of the loss
                self.world.checks.excused.add(self.spool.execution)
            self.job.agent_closed()
        elif code != "fenced" and agent is self.agent:
            self.restarts += 1
            if self.restarts < AGENT_RESTARTS_HERE:
                self.world.scheduler.after(4.0, self.start_agent)

    def kill_agent(self, back_after_s: float) -> bool:
        """kill -9; somebody starts another."""
        if self.agent is None or not self.agent.alive or self.closed:
            return False
        self.agent.kill()
        self.agent._link.dealer.close()
        self.world.scheduler.after(back_after_s, self.start_agent)
        return True

    def die(self) -> None:
        """The machine is gone, with all that is on it."""
        self.dead = True
        if self.agent and self.agent.alive:
            self.agent.kill()
            self.agent._link.dealer.close()
        for rank in self.living_ranks.values():
            rank.kill()
        self.living_ranks.clear()
        sources = {Source(SourceKind.AGENT, self.index)} | {
            Source(SourceKind.RANK, number) for number in range(len(self.job.plan.ranks)) if self.has(number)
        }
        self.world.checks.died(self.spool.execution, sources)

    def has(self, rank: int) -> bool:
        """Whether it is the rank's node."""
        return rank % len(self.job.nodes) == self.index

    def start_rank(self, number: int, plan: RankPlan) -> None:
        rank = Rank(self.world, self, number, plan)
        self.living_ranks[rank.pid] = rank

    def signal(self, pid: int, number: int) -> None:
        if pid in self.living_ranks:
            self.living_ranks[pid].signalled(number)

    def rank_ended(self, rank: Rank) -> None:
        self.living_ranks.pop(rank.pid, None)
        self.job.rank_ended(rank)


class Job:
    """`theorbo launch` of one execution: starts agents, then ranks, says how it went, and waits for the agents."""

    def __init__(
        self, world: World, number: int, execution: bytes, plan: ExecutionPlan, executor: ExecutorParty
    ) -> None:
        self.world = world
        self.number = number
        self.execution = execution
        self.plan = plan
        self.launcher_lives = True
        self.watchers = [executor]
        """Executors that see the launcher's process end."""
        self._ready: set[int] = set()
        self._ranks_left = len(plan.ranks)
        self._ended = self._exited = False
        self.nodes = [Node(world, self, index) for index in range(plan.nodes)]
        self._launcher = Reporter(self.nodes[0].spool, LAUNCHER, lambda: self.nodes[0].host.wall)
        self._launcher.report("launcher_started", reserved=True, host="node", agents=plan.nodes)
        for node in self.nodes:
            node.start_agent()

    def agent_ready(self, node: Node) -> None:
        if self.launcher_lives and node.index not in self._ready:
            self._ready.add(node.index)
            if len(self._ready) == len(self.nodes):
                for number, rank in enumerate(self.plan.ranks):
                    self.nodes[number % len(self.nodes)].start_rank(number, rank)

    def lose_node(self, index: int, *, dead: bool) -> bool:
        """The launcher cannot reach a node any more: it says so, and ends all other ranks."""
        node = self.nodes[index]
        started = len(self._ready) == len(self.nodes)
        if not self.launcher_lives or not started or self._ranks_left == 0 or node.lost or node.closed:
            return False
        node.lost = True
        self._ranks_left -= len(node.living_ranks)
        if dead:
            node.die()
        elif node.agent:
            node.agent.alone = True
        self.world.scheduler.after(2.0, self._tell_lost, node)
        return True

    def _tell_lost(self, node: Node) -> None:
        if not self.launcher_lives or node.told_lost:
            return
        node.told_lost = True
        lost = {"node": node.index, "host": node.host_name, "reason": "ssh ended with 255"}
        self._launcher.report("node_lost", reserved=True, **lost)
        for other in self.nodes:
            for rank in [] if other.lost else list(other.living_ranks.values()):
                rank.end(None, "SIGTERM")
        if self._ranks_left == 0:
            self._all_ended()

    def rank_ended(self, rank: Rank) -> None:
        if self.nodes[rank.number % len(self.nodes)].lost:
            return
        self._ranks_left -= 1
        if self._ranks_left == 0 and self.launcher_lives:
            self.world.scheduler.after(0.02, self._all_ended)

    def _all_ended(self) -> None:
        if self.launcher_lives and not self._ended:
            self._ended = True
            for node in [node for node in self.nodes if node.lost]:
                self._tell_lost(node)
            self._launcher.report("launcher_ended", reserved=True, exit_code=0)
            for node in [node for node in self.nodes if not node.lost]:
                node.spool.ended = True
                node.spool.on_change("end")
            self.world.scheduler.after(DRAIN_S, self._exit, 0)

    def agent_closed(self) -> None:
        if all(node.closed or node.lost for node in self.nodes):
            self._exit(0)

    def _exit(self, code: int) -> None:
        if not self._exited and self.launcher_lives:
            self._exited = True
            self.launcher_lives = False
            self._tell_agents()
            self._tell_watchers(code)

    def kill_launcher(self) -> bool:
        """The launcher is killed; ranks and agents live on."""
        if not self.launcher_lives or self._exited or len(self._ready) < len(self.nodes):
            return False
        self.launcher_lives = False
        self._tell_agents()
        self._tell_watchers(-9)
        return True

    def _tell_watchers(self, code: int) -> None:
        for executor in self.watchers:
            executor.launcher_ended(code)

    def _tell_agents(self) -> None:
        for node in self.nodes:
            if node.agent:
                node.agent.alone = True

    @property
    def over(self) -> bool:
        return all(node.closed or node.dead or node.given_up for node in self.nodes)
