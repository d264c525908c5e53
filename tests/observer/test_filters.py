"""What an observer wants, and the topics that this means."""

from __future__ import annotations

import pytest

from theorbo.observer.filters import Filter, execution_bytes
from theorbo.schemas.errors import UsageError
from theorbo.schemas.names import Channel, topic

ID = "01" * 16
VIEW = {"execution": ID, "task": "galaxies", "experiment": "mfx1", "run": "12"}


def matching(wanted: Filter, *place: str) -> bool:
    return any(topic(Channel.LOG, *place).startswith(prefix) for prefix in wanted.topics())


def test_without_a_filter_everything_is_wanted():
    assert Filter.of().topics() == [f"{channel.text}/".encode() for channel in Channel]
    assert Filter.of().admits(VIEW)
    assert Filter.of().wants(Channel.LOG, "log")


def test_an_experiment_is_no_prefix_of_another():
    wanted = Filter.of(experiment="mfx1")
    assert matching(wanted, "mfx1", "12", "galaxies", ID)
    assert not matching(wanted, "mfx10", "12", "galaxies", ID)


def test_what_is_no_prefix_is_subscribed_to_more_broadly_and_left_out_later():
    wanted = Filter.of(experiment="mfx1", task="galaxies")
    assert b"log/mfx1/" in wanted.topics()
    assert wanted.admits(VIEW)
    assert not wanted.admits({**VIEW, "task": "peaks"})


def test_names_are_escaped_in_topics_and_empty_ones_are_names_too():
    assert b"log/a%2Fb/" in Filter.of(experiment="a/b").topics()
    wanted = Filter.of(experiment="")
    assert b"log/-/" in wanted.topics()
    assert not wanted.admits(VIEW)


def test_kinds_choose_the_channels_and_signals_are_always_followed():
    wanted = Filter.of(kinds=["result"])
    assert wanted.topics() == [b"signals/", b"results/"]
    assert wanted.wants(Channel.RESULTS, "result")
    assert not wanted.wants(Channel.RESULTS, "data")
    assert not wanted.wants(Channel.SIGNALS, "state_changed")


def test_output_is_on_two_channels_and_unknown_kinds_are_where_foreign_ones_travel():
    assert Filter.of(kinds=["output"]).channels == {Channel.STDOUT, Channel.STDERR}
    assert Filter.of(kinds=["weather"]).channels == {Channel.LOG}


@pytest.mark.parametrize("text", ["", "xyz", "01", ID + "0"])
def test_what_is_no_execution_is_refused_with_the_way_out(text):
    with pytest.raises(UsageError, match="32 hexadecimal digits"):
        execution_bytes(text)


def test_an_unknown_channel_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'logs'.*signals, log, metrics"):
        Filter.of(channels=["logs"])
