"""What each kind of fault does to the world. A fault that finds nothing to spoil does nothing, and is not counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .plan import Fault

if TYPE_CHECKING:
    from .world import World


def strike(world: World, fault: Fault) -> None:
    done = KINDS[fault.kind](world, fault)
    if done:
        world.count(fault.kind)
        world.story.tell("FAULT", str(fault))


def _break(world: World, fault: Fault) -> bool:
    return world.network.break_connections(fault.target) > 0


def _half_open(world: World, fault: Fault) -> bool:
    up, down = world.scheduler.chance.choice(((True, True), (True, False), (False, True)))
    return world.network.half_open(fault.target, up=up, down=down) > 0


def _cut(world: World, fault: Fault) -> bool:
    return world.network.cut(fault.target, fault.seconds) > 0


def _replay_put(world: World, fault: Fault) -> bool:
    """Something that was sent long ago comes again: as if a connection of the past had kept it."""
    message = world.last_put(fault.target)
    connections = world.network.of(fault.target)
    if message is None or not connections:
        return False
    for delay_s in (0.0, 1.0):
        world.scheduler.after(delay_s, connections[0].up.push, message)
    return True


def _stale_ack(world: World, fault: Fault) -> bool:
    """An acknowledgement that was sent before others comes again after them."""
    connections = world.network.of(fault.target)
    acknowledgements = world.acknowledgements.get(connections[0].socket.process) if connections else None
    if not acknowledgements:
        return False
    connections[0].down.push(acknowledgements[0])
    return True


def _kill_broker(world: World, fault: Fault) -> bool:
    if not world.broker.alive:
        return False
    world.broker.kill()
    world.scheduler.after(fault.seconds, _start_broker, world, fault.amount < 0.3)
    return True


def _start_broker(world: World, moved: bool) -> None:
    if not world.broker.alive:
        world.start_broker(moved=moved)
        world.story.tell("broker", f"is back at {world.connection_file[0]}")


def _recover_journal(world: World, fault: Fault) -> bool:
    """The broker died, its journal was damaged; what it had written last is gone."""
    if not world.broker.alive or not world.disk.batches:
        return False
    if any(node.lost for job in world.jobs.values() for node in job.nodes):
        return False  # where others have closed meanwhile, who waits for the lost one would wait for ever
    world.broker.kill()
    world.acknowledgements.clear()
    lost = world.disk.lose_tail(1 + int(fault.amount * 15))
    for job in world.jobs.values():
        if any(node.closed for node in job.nodes) and any(batch.execution == job.execution for batch in lost):
            world.checks.excused.add(job.execution)
    world.story.tell("journal", f"has lost {len(lost)} batches")
    world.scheduler.after(fault.seconds, _start_broker, world, False)
    return True


def _damage_row(world: World, fault: Fault) -> bool:
    candidates = [batch for batch in world.disk.batches if batch.first > 1 or batch.channel != 1]
    if not candidates:
        return False
    batch = candidates[int(fault.amount * len(candidates))]
    world.disk.damage(batch)
    world.story.tell("journal", f"sequence {batch.sequence} is damaged")
    return True


def _freeze_broker(world: World, fault: Fault) -> bool:
    return _freeze_process(world, "broker", fault.seconds)


def _freeze(world: World, fault: Fault) -> bool:
    return _freeze_process(world, fault.target, fault.seconds)


def _freeze_process(world: World, name: str, seconds: float) -> bool:
    process = world.process(name)
    if process is None or not process.alive:
        return False
    process.freeze()
    world.scheduler.after(seconds, process.thaw)
    return True


def _kill_agent(world: World, fault: Fault) -> bool:
    node = world.node(fault.target.removeprefix("agent-"))
    return bool(node and node.kill_agent(fault.seconds))


def _kill_executor(world: World, fault: Fault) -> bool:
    """In the middle of what it is doing; somebody attaches later, here or elsewhere."""
    executor = world.process(fault.target)
    if executor is None or not executor.alive or executor.over:
        return False
    executor.dies_in = int(fault.amount * 8)
    world.scheduler.after(0.3, executor.kill_if_alive)
    host = "login" if fault.amount < 0.7 else "elsewhere"
    world.scheduler.after(0.3 + fault.seconds, world.attach, executor.number, host)
    return True


def _take_over(world: World, fault: Fault) -> bool:
    """An Executor is frozen, another attaches elsewhere, the first one comes back, and somebody presses Ctrl-C."""
    executor = world.process(fault.target)
    if executor is None or not executor.alive or executor.over or executor.frozen:
        return False
    executor.freeze()
    world.scheduler.after(fault.seconds, executor.thaw)
    world.scheduler.after(fault.seconds, executor.cancel)
    world.scheduler.after(0.5, world.attach, executor.number, "elsewhere")
    return True


def _kill_observer(world: World, fault: Fault) -> bool:
    observer = world.process(fault.target)
    if observer is None or not observer.alive:
        return False
    observer.kill()
    world.scheduler.after(fault.seconds, world.start_observer, int(fault.target.removeprefix("observer-")))
    return True


def _drop_live(world: World, fault: Fault) -> bool:
    world.drop_live(fault.target, fault.seconds)
    return True


def _kill_launcher(world: World, fault: Fault) -> bool:
    job = world.jobs.get(int(fault.target))
    return bool(job and job.kill_launcher())


def _fill_spool(world: World, fault: Fault) -> bool:
    node = world.node(fault.target)
    if not node:
        return False
    node.spool.full_until = world.scheduler.now + fault.seconds
    return True


def _fill_journal(world: World, fault: Fault) -> bool:
    world.disk.full_until = world.scheduler.now + fault.seconds
    return True


def _slow_commits(world: World, fault: Fault) -> bool:
    world.disk.slow_until = world.scheduler.now + fault.seconds
    return True


def _slow_network(world: World, fault: Fault) -> bool:
    world.network.slow_s += fault.amount
    world.scheduler.after(fault.seconds, _fast_network, world, fault.amount)
    return True


def _fast_network(world: World, amount: float) -> None:
    world.network.slow_s = max(0.0, world.network.slow_s - amount)


def _deafen(world: World, fault: Fault) -> bool:
    world.inotify_deaf = True
    world.scheduler.after(fault.seconds, _listen, world)
    return True


def _listen(world: World) -> None:
    world.inotify_deaf = False


def _set_clock(world: World, fault: Fault) -> bool:
    world.host(fault.target).wall_offset_s += fault.amount
    return True


def _lose_node(world: World, fault: Fault) -> bool:
    """The machine dies, and the launcher notices."""
    number, index = map(int, fault.target.split("-"))
    return number in world.jobs and world.jobs[number].lose_node(index, dead=True)


def _cut_node_off(world: World, fault: Fault) -> bool:
    """It lives, but neither the launcher nor the broker reach it; for the latter it comes back."""
    number, index = map(int, fault.target.split("-"))
    if number not in world.jobs or not world.jobs[number].lose_node(index, dead=False):
        return False
    world.network.cut(f"agent-{fault.target}", fault.seconds)
    return True


KINDS: dict[str, Callable[[World, Fault], bool]] = {
    "break": _break,
    "half-open": _half_open,
    "cut": _cut,
    "replay PUT": _replay_put,
    "stale ACK": _stale_ack,
    "broker killed": _kill_broker,
    "broker frozen": _freeze_broker,
    "journal tail lost": _recover_journal,
    "row damaged": _damage_row,
    "frozen": _freeze,
    "agent killed": _kill_agent,
    "executor killed": _kill_executor,
    "executor ghost": _take_over,
    "observer killed": _kill_observer,
    "live messages dropped": _drop_live,
    "launcher killed": _kill_launcher,
    "node lost": _lose_node,
    "node cut off": _cut_node_off,
    "spool full": _fill_spool,
    "journal full": _fill_journal,
    "slow commits": _slow_commits,
    "slow network": _slow_network,
    "inotify deaf": _deafen,
    "wall clock set": _set_clock,
}
