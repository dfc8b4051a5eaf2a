//! The warm path: one clock, one reference count, no allocation, no lock, no request.

#![cfg(feature = "simulator")]

mod support;

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use allocation_counter::{AllocationInfo, measure};
use concur_auth::{AccessToken, TokenManager};
use support::Scene;

/// What a call allocates, ready at its first poll.
fn allocations_of_a_call(tokens: &TokenManager) -> AllocationInfo {
    measure(|| {
        let mut call = pin!(tokens.access_token());
        let mut context = Context::from_waker(Waker::noop());
        match call.as_mut().poll(&mut context) {
            Poll::Ready(token) => drop(token.unwrap()),
            Poll::Pending => panic!("the warm path waited"),
        }
    })
}

#[tokio::test]
async fn a_held_access_token_is_served_without_an_allocation() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    // A thread's first call makes room for the thread's own part of the shared pointer.
    allocations_of_a_call(&tokens);
    for _ in 0..1000 {
        let info = allocations_of_a_call(&tokens);
        assert_eq!((info.count_total, info.bytes_total), (0, 0), "{info:?}");
    }
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn clones_of_a_manager_and_of_a_token_are_reference_counts() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    let access = tokens.access_token().await.unwrap();
    let info = measure(|| drop((tokens.clone(), access.clone(), access.secret().len(), access.expires_at())));
    assert_eq!(info.count_total, 0, "{info:?}");
}

/// The header's value is made once.
#[tokio::test]
async fn an_authorization_is_a_reference_count() {
    let scene = Scene::new().await;
    let access = scene.manager().access_token().await.unwrap();
    let first = access.authorization();
    assert_eq!(first.to_str().unwrap(), format!("Bearer {}", access.secret()));
    let info = measure(|| drop((access.authorization(), first.clone())));
    assert_eq!(info.count_total, 0, "{info:?}");
}

/// Callers keep futures inside their own: a large one would be copied about on every call.
#[tokio::test]
async fn the_future_of_a_call_is_small() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    assert!(size_of_val(&tokens.access_token()) <= 64, "{}", size_of_val(&tokens.access_token()));
    assert_eq!(size_of::<TokenManager>(), size_of::<usize>());
    assert_eq!(size_of::<AccessToken>(), size_of::<usize>());
}
