//! Handing prepared batches to the writer: a short queue, whose length and whose being full the metrics show.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use service_runtime::limit::QueueDepth;

use crate::prepare::Prepared;

/// A queue of at most `most` batches.
pub(crate) fn queue(most: u32, depth: QueueDepth) -> (Handover, Batches) {
    let (sender, receiver) = sync_channel(usize::try_from(most).unwrap_or(1));
    let depth = Arc::new(depth);
    (Handover { sender, depth: Arc::clone(&depth) }, Batches { receiver, depth })
}

/// The preparing side.
pub(crate) struct Handover {
    sender: SyncSender<Prepared>,
    depth: Arc<QueueDepth>,
}

impl Handover {
    /// Hands a batch over; waits for room. Breaks where the writer has hung up.
    pub(crate) fn give(&self, prepared: Prepared) -> ControlFlow<()> {
        let given = match self.sender.try_send(prepared) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(prepared)) => {
                self.depth.was_full();
                self.sender.send(prepared).map_err(drop)
            }
            Err(TrySendError::Disconnected(_)) => Err(()),
        };
        if given.is_err() {
            return ControlFlow::Break(());
        }
        self.depth.grew();
        ControlFlow::Continue(())
    }
}

/// The writer's side.
pub(crate) struct Batches {
    receiver: Receiver<Prepared>,
    depth: Arc<QueueDepth>,
}

impl Batches {
    /// The next batch.
    pub(crate) fn next_within(&self, patience: Duration) -> Result<Prepared, RecvTimeoutError> {
        let prepared = self.receiver.recv_timeout(patience)?;
        self.depth.shrank();
        Ok(prepared)
    }
}
