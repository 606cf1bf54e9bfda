//! The future of the layers that either pass a request on or answer it themselves.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;

pin_project! {
    /// Resolves to the inner service's response, or to the one that a layer gave in its place.
    pub struct ResponseFuture<F, R> {
        #[pin]
        kind: Kind<F, R>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<F, R> {
        Passed { #[pin] future: F },
        Answered { response: Option<Response<R>> },
    }
}

impl<F, R> ResponseFuture<F, R> {
    pub(crate) fn passed(future: F) -> Self {
        Self { kind: Kind::Passed { future } }
    }

    pub(crate) fn answered(response: Response<R>) -> Self {
        Self { kind: Kind::Answered { response: Some(response) } }
    }
}

impl<F, R, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Passed { future } => future.poll(cx),
            KindProj::Answered { response } => {
                Poll::Ready(Ok(response.take().expect("polled after it was ready")))
            }
        }
    }
}
