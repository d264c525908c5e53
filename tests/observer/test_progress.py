"""The progress of several ranks as one line."""

from theorbo.observer.progress import RanksProgress
from theorbo.schemas.events import Progress
from theorbo.schemas.limits import PROGRESS_LINE_S


def step(done, total=10.0, text=""):
    return Progress(time=5.0, done=done, total=total, unit="tiles", text=text)


def test_one_rank_is_shown_as_it_reports():
    ranks = RanksProgress()
    assert ranks.take(3, step(1, text="north\x1b"), 0.0) == (5.0, "rank 3", "progress 1/10 tiles (10 %) north\\x1b")
    assert ranks.take(3, step(2), 0.0).text == "progress 2/10 tiles (20 %)"


def test_several_are_shown_together_once_in_a_while_and_when_all_is_done():
    ranks = RanksProgress()
    ranks.take(0, step(1), 0.0)
    assert ranks.take(1, step(3), 0.0)[1:] == ("2 ranks", "progress 4/20 tiles (20 %)")
    assert ranks.take(1, step(4), PROGRESS_LINE_S / 2) is None
    assert ranks.take(0, step(5), PROGRESS_LINE_S).text == "progress 9/20 tiles (45 %)"
    ranks.take(0, step(10), PROGRESS_LINE_S)
    assert ranks.take(1, step(10), PROGRESS_LINE_S).text == "progress 20/20 tiles (100 %)"


def test_what_was_held_back_comes_with_the_end():
    ranks = RanksProgress()
    ranks.take(0, step(1), 0.0)
    ranks.take(1, step(3), 0.0)
    assert ranks.take(1, step(4), 0.1) is None
    assert ranks.rest(0.2).text == "progress 5/20 tiles (25 %)"
    assert ranks.rest(0.3) is None


def test_where_one_does_not_know_its_total_there_is_none():
    ranks = RanksProgress()
    ranks.take(0, step(1, total=None), 0.0)
    assert ranks.take(1, step(3), 0.0).text == "progress 4 tiles"
