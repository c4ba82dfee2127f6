"""The cloud's background services for its provider: finished runs, sheets, deliveries.

A run's vendor follows from the cloud's own directory of sheets when the run was opened, never from the device's data.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama.cloud.catalogue import Catalogue
from llama.cloud.control import ControlRequest, ControlRequests
from llama.cloud.deletion_log import DeletionLog
from llama.cloud.event_log import EventLog
from llama.cloud.run_finisher import FinishedRun, RunFinisher
from llama.cloud.run_store import RunStore
from llama.cloud.sheet_publisher import CurrentSheets, SheetPublisher
from llama.sheets import SheetDirectory
from llama.tokenizer import Tokenizer
from llama.wire import Final, Reply


@dataclass(frozen=True)
class ProviderServices:
    """All services of one provider's cloud besides the model. Used by one thread, which may wait for a disk.

    Attributes:
        sheets: the provider's and the vendors' sheets; any thread may read them.
        finisher: finishes runs.
        control: answers control requests.
        deletions: reports rows that the store has deleted early.
        store: keeps finished runs and deliveries; None if the cloud keeps none. The caller closes it.
    """

    sheets: CurrentSheets
    finisher: RunFinisher
    control: ControlRequests
    deletions: DeletionLog
    store: RunStore | None

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        *,
        store: RunStore | None = None,
        directory: SheetDirectory | None = None,
        catalogue: Catalogue | None = None,
        publisher: SheetPublisher | None = None,
        event_log: EventLog | None = None,
    ) -> ProviderServices:
        """Create the services.

        Args:
            tokenizer: decodes replies.
            store: keeps finished runs and deliveries; None if the cloud keeps none. The caller closes it.
            directory: the sheets; None if there are none. Vendors' sheets require a ``store`` for their deliveries.
            catalogue: the partners' products; None if there are none. The caller closes it.
            publisher: writes vendors' sheets; None if vendors may not publish. It requires a ``store``.
            event_log: receives errors.
        """
        event_log = event_log or EventLog()
        sheets = CurrentSheets(directory or SheetDirectory({}))
        assert store is not None or not (sheets.directory.parties or publisher), "vendors' deliveries need a store"
        deletions = DeletionLog(store, event_log)
        deletions.report()
        finisher = RunFinisher(tokenizer, sheets.directory.system, store, catalogue, deletions, event_log)
        control = ControlRequests(sheets, store, publisher, deletions, event_log)
        return cls(sheets, finisher, control, deletions, store)

    def finish(self, run: FinishedRun) -> Final:
        """Finish a run. See :meth:`RunFinisher.finish`."""
        return self.finisher.finish(run)

    def answer(self, request: ControlRequest, owner: str = "") -> Reply:
        """Answer a control request. See :meth:`ControlRequests.answer`."""
        return self.control.answer(request, owner)

    def close(self) -> None:
        """Report all deletions not reported yet."""
        self.deletions.report(all_of_it=True)
