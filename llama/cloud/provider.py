"""What a cloud does for its provider in the background, put together: finished runs, sheets, deliveries.

Which vendor a run belongs to follows from the cloud's own directory of sheets as it was when the run was opened, never
from what a device says.
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
    """All that one provider's cloud does beside computing; one thread uses it, which may wait for a disk.

    Attributes:
        sheets: the provider's and the vendors'; any thread may read.
        finisher: finishes runs.
        control: answers control requests.
        deletions: reports what the store has deleted early.
        store: where finished runs and deliveries are kept, if they are; closed by the caller.
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
        """Put them together.

        Args:
            tokenizer: for the text of replies.
            store: where finished runs and deliveries are kept, if they are; closed by the caller.
            directory: the provider's sheets, if it has any. Vendors' need a ``store`` for their deliveries.
            catalogue: the partners' products, if there are any; closed by the caller.
            publisher: where vendors' sheets are written, if they may publish any; that needs a ``store``, too.
            event_log: told what goes wrong.
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

    def answer(self, request: ControlRequest) -> Reply:
        """Answer a control request. See :meth:`ControlRequests.answer`."""
        return self.control.answer(request)

    def close(self) -> None:
        """Report what is still to be reported."""
        self.deletions.report(all_of_it=True)
