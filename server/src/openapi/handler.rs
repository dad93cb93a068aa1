//! Derives the description of an operation from the type of its handler: each argument adds a
//! parameter, a role or an error, and the result adds the response.

use std::future::Future;

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use schemars::JsonSchema;

use super::Operation;
use crate::problem::Problem;

/// A handler with the arguments `I`.
pub(crate) trait Handler<I> {
    fn describe(operation: &mut Operation<'_>);
}

/// An argument of handlers.
pub(crate) trait Input {
    fn describe(operation: &mut Operation<'_>);
}

/// A result of handlers.
pub(crate) trait Output {
    fn describe(operation: &mut Operation<'_>);
}

macro_rules! handler {
    ($($input:ident)*) => {
        impl<F, R, $($input,)*> Handler<($($input,)*)> for F
        where
            F: Fn($($input),*) -> R,
            R: Future<Output: Output>,
            $($input: Input,)*
        {
            fn describe(operation: &mut Operation<'_>) {
                $($input::describe(operation);)*
                <R::Output as Output>::describe(operation);
            }
        }
    };
}

handler!();
handler!(A);
handler!(A B);
handler!(A B C);
handler!(A B C D);
handler!(A B C D E);

impl Input for HeaderMap {
    fn describe(_: &mut Operation<'_>) {}
}

impl Input for Request {
    fn describe(_: &mut Operation<'_>) {}
}

impl<T: Output> Output for Result<T, Problem> {
    fn describe(operation: &mut Operation<'_>) {
        T::describe(operation);
    }
}

impl<T: JsonSchema> Output for Json<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.success::<T>(200);
    }
}

/// The routes return a status together with a body only for accepted requests.
impl<T: JsonSchema> Output for (StatusCode, Json<T>) {
    fn describe(operation: &mut Operation<'_>) {
        operation.success::<T>(202);
    }
}

/// The routes return only a status if there is no content.
impl Output for StatusCode {
    fn describe(operation: &mut Operation<'_>) {
        operation.empty(204);
    }
}

/// The type shows nothing about the response.
impl Output for Response {
    fn describe(_: &mut Operation<'_>) {}
}

/// The type shows nothing about the response.
impl Output for &'static str {
    fn describe(_: &mut Operation<'_>) {}
}
