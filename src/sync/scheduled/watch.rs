//! tokio's channel of the same name. It has a lock inside, which the scheduler does not see: so no thread of a schedule gives way
//! while it is taken, but where another lock around it is held, which the scheduler does see.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, PoisonError},
};

use tokio::sync::watch::{Ref, error::RecvError};

use crate::schedules::{Fault, has, is_on, step};

type Turn = Arc<shuttle::sync::Mutex<()>>;

#[derive(Debug)]
pub(crate) struct Sender<T> {
    inner: tokio::sync::watch::Sender<T>,
    turn: Turn,
}

#[derive(Debug)]
pub(crate) struct Receiver<T> {
    inner: tokio::sync::watch::Receiver<T>,
    turn: Turn,
}

pub(crate) fn channel<T>(first: T) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = tokio::sync::watch::channel(first);
    let turn = Turn::default();
    (Sender { inner: sender, turn: Arc::clone(&turn) }, Receiver { inner: receiver, turn })
}

/// Alone with the channel, in a schedule.
fn alone<R>(turn: &Turn, act: impl FnOnce() -> R) -> R {
    let _turn = is_on().then(|| turn.lock().unwrap_or_else(PoisonError::into_inner));
    act()
}

impl<T> Sender<T> {
    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        alone(&self.turn, || self.inner.borrow())
    }

    pub(crate) fn receiver_count(&self) -> usize {
        step();
        if has(Fault::CountsNoReceivers) { 0 } else { self.inner.receiver_count() }
    }

    pub(crate) fn send_replace(&self, value: T) {
        self.send_if_modified(|told| {
            *told = value;
            true
        });
    }

    pub(crate) fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        alone(&self.turn, || self.inner.send_if_modified(|told| change(told) && !has(Fault::SendsSilently)))
    }
}

impl<T> Receiver<T> {
    pub(crate) async fn wait_for(
        &mut self,
        is_wanted: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, RecvError> {
        let Self { inner, turn } = self;
        let mut waits = pin!(inner.wait_for(is_wanted));
        poll_fn(|context| alone(turn, || waits.as_mut().poll(context))).await
    }

    pub(crate) fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let Self { inner, turn } = self;
        alone(turn, || inner.borrow_and_update())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        step();
        Self { inner: self.inner.clone(), turn: Arc::clone(&self.turn) }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        step();
    }
}
