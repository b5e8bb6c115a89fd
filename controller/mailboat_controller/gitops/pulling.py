"""One turn of the loop that keeps a controller as a branch says: fetch, verify, compare, apply.

The branch is taken forward only, and only when its newest commit is signed by somebody in the list
of signers. Whatever is not taken leaves everything as it stands, and is told to the controller,
where `mailboat gitops status` shows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mailboat_controller.gitops.git_program import GitFailed
from mailboat_controller.gitops.reading import as_sent, read_files
from mailboat_controller.gitops.repository import Commit, HistoryRewritten, Repository
from mailboat_schemas.errors import MailboatError, NotPermitted, OperatorNeeded, Transient

NAMED_MAX = 5  # documents named in one sentence
BECAUSE_CHARS_MAX = 1000


class Controller(Protocol):
    """`client.ApiClient`, over HTTPS; and any other way to the same routes."""

    def get(self, path: str, **parameters: Any) -> Any: ...

    def post(self, path: str, content: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulling:
    """What is pulled, and how far the loop may go.

    prune_max: one that would prune more is refused; 0: nothing is pruned.
    rewind_to: a commit that may be taken although it does not follow the last. For one turn: in a
        loop it would allow every rewind to that commit, for as long as the loop runs.
    """

    set_name: str
    url: str
    branch: str
    path: str
    prune_max: int
    watch_only: bool = False
    rewind_to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """``state`` as in `store.gitops.PullState`; ``differences`` None: nothing was compared."""

    state: str
    because: str = ""
    commit: str = ""
    signer: str = ""
    differences: int | None = None
    results: tuple[Mapping[str, Any], ...] = ()
    told: bool = True  # to the controller


class PrunesTooMuch(OperatorNeeded):
    code = "E-GITOPS-PRUNE"


def turn(repository: Repository, controller: Controller, pulling: Pulling) -> Turn:
    """Never raises what another turn may mend.

    Raises:
        NotPermitted: the connection may not do this.
    """
    seen: list[Commit] = []
    try:
        found = _turn(repository, controller, pulling, seen)
    except GitFailed as error:
        found = Turn(state="unreachable", because=str(error))
    except Transient as error:
        return Turn(state="unreachable", because=str(error), told=False)
    except NotPermitted:
        raise
    except MailboatError as error:
        commit = seen[-1] if seen else Commit("", "")
        found = Turn(state="refused", because=str(error), commit=commit.name, signer=commit.signer)
    return _tell(controller, pulling, found)


def _turn(
    repository: Repository, controller: Controller, pulling: Pulling, seen: list[Commit]
) -> Turn:
    place = f"/v1/gitops/{pulling.set_name}"
    applied = controller.get(place)["commit"]
    tip = repository.fetch()
    seen.append(Commit(tip, ""))  # it was there, whoever made it
    commit = repository.verified(tip)
    seen.append(commit)
    rewound = ""
    try:
        repository.refuse_rewound(tip, applied)
    except HistoryRewritten:
        if tip != pulling.rewind_to:
            raise
        rewound = f", which does not follow {applied} and was allowed by hand"
    documents = as_sent(read_files(repository.files(tip, pulling.path)))
    request: dict[str, Any] = {"documents": documents, "prune": pulling.prune_max > 0}
    found = controller.post(f"{place}/diff", request)
    if pulling.watch_only:
        return _compared(commit, found, found["different"])
    _refuse_much_pruning(found["results"], pulling.prune_max)
    request |= {
        "generation": found["generation"],
        "commit": tip,
        "reason": f"{pulling.branch} of {pulling.url}, signed by {commit.signer}{rewound}"[:1000],
    }
    found = controller.post(f"{place}/apply", request)
    waiting = sum(each["result"] in ("refused", "needs approval") for each in found["results"])
    return _compared(commit, found, waiting)


def _compared(commit: Commit, found: Mapping[str, Any], differences: int) -> Turn:
    open_ = [each for each in found["results"] if each["result"] in ("refused", "needs approval")]
    named = "; ".join(
        f"{each['kind']} {each['name']}: {each['because']}" for each in open_[:NAMED_MAX]
    )
    if not named and differences:
        named = f"{differences} documents differ"
    return Turn(
        state="drifted" if differences else "in-step",
        because=named,
        commit=commit.name,
        signer=commit.signer,
        differences=differences,
        results=tuple(found["results"]),
    )


def _refuse_much_pruning(results: list[Mapping[str, Any]], prune_max: int) -> None:
    pruned = sum(each["result"] == "pruned" for each in results)
    if pruned > prune_max:
        raise PrunesTooMuch(
            f"{pruned} documents would be pruned, more than {prune_max}.",
            next_step="if they are to go, run `mailboat apply --prune` by hand once, or allow "
            "more with --prune-max.",
        )


def _tell(controller: Controller, pulling: Pulling, found: Turn) -> Turn:
    report = {
        "repository": pulling.url[:BECAUSE_CHARS_MAX],
        "branch": pulling.branch,
        "commit": found.commit,
        "signer": found.signer[:BECAUSE_CHARS_MAX],
        "state": found.state,
        "because": found.because[:BECAUSE_CHARS_MAX].replace("\0", " "),
        "differences": found.differences,
    }
    try:
        controller.post(f"/v1/gitops/{pulling.set_name}/pulls", report)
    except NotPermitted:
        raise
    except MailboatError:  # also what a proxy says for a controller that is away
        return Turn(**{name: getattr(found, name) for name in Turn.__slots__} | {"told": False})
    return found
