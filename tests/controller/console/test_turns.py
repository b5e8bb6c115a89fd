"""Few wait for one who works; the API's other threads stay free for devices."""

import threading

from mailboat_controller.console.turns import WAITING_MAX, TooManyWait, Turns


def test_whoever_comes_beyond_the_places_is_told_to_come_back() -> None:
    turns, end, refused = Turns("The fleet is read"), threading.Event(), threading.Event()
    done: list[int] = []
    told: list[TooManyWait] = []

    def work(number: int) -> None:
        try:
            with turns.turn():
                end.wait(60)
                done.append(number)
        except TooManyWait as error:
            told.append(error)
            refused.set()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(WAITING_MAX + 1)]
    for thread in threads:
        thread.start()
    assert refused.wait(60)
    assert turns.taken
    end.set()
    for thread in threads:
        thread.join()

    assert (len(done), [each.code for each in told]) == (WAITING_MAX, ["E-CONSOLE-BUSY"])
    with turns.turn():  # there is room again
        assert turns.taken
