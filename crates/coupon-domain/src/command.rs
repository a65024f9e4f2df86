//! An operator's change to a coupon. It stands in the same line as the claims, so its effect has a place among them.

use std::sync::Arc;

use crate::command_id::CommandId;
use crate::command_kind::CommandKind;
use crate::coupon::{Definition, Window};

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// See [`CommandKind::Publish`].
    Publish(Arc<Definition>),
    /// See [`CommandKind::Reschedule`].
    Reschedule(Window),
    /// See [`CommandKind::Pause`].
    Pause,
    /// See [`CommandKind::Resume`].
    Resume,
    /// See [`CommandKind::Restock`]: by how many, never zero, within ±[`crate::limits::QUANTITY_MAX`].
    Restock(i32),
    /// See [`CommandKind::Close`].
    Close,
    /// See [`CommandKind::Retire`].
    Retire,
}

impl Change {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> CommandKind {
        match self {
            Self::Publish(_) => CommandKind::Publish,
            Self::Reschedule(_) => CommandKind::Reschedule,
            Self::Pause => CommandKind::Pause,
            Self::Resume => CommandKind::Resume,
            Self::Restock(_) => CommandKind::Restock,
            Self::Close => CommandKind::Close,
            Self::Retire => CommandKind::Retire,
        }
    }
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Which command it is; the coupon is part of it.
    pub command_id: CommandId,
    /// What it asks for.
    pub change: Change,
    /// The version that the operator saw; another one refuses the command. Absent: whatever it is.
    pub expected_version: Option<u32>,
    /// Why, in the operator's words.
    pub reason: Option<Arc<str>>,
    /// Who: the admin token's `sub`.
    pub actor: crate::user_id::UserId,
}
