//! Who is told of every change of a manager's status, as its subscribers are: the fleet that it belongs to.

use crate::Status;

pub(crate) trait Observer: Send + Sync {
    /// Whether anything listens now. If not, nothing is put together to be told.
    fn is_listening(&self) -> bool;

    fn changed(&self, status: &Status);
}
