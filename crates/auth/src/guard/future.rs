//! The future of the guard, which has the last word on a response's CORS headers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::cors::Marks;

pin_project! {
    /// Resolves to the inner service's response with the guard's CORS headers, or to the guard's own response.
    pub struct ResponseFuture<F, R> {
        #[pin]
        inner: crate::ResponseFuture<F, R>,
        marks: Option<Marks>,
    }
}

impl<F, R> ResponseFuture<F, R> {
    pub(super) fn passed(future: F, marks: Marks) -> Self {
        Self { inner: crate::ResponseFuture::passed(future), marks: Some(marks) }
    }

    pub(super) fn answered(response: Response<R>) -> Self {
        Self { inner: crate::ResponseFuture::answered(response), marks: None }
    }
}

impl<F, R, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if let Some(marks) = this.marks {
            marks.set(response.headers_mut());
        }
        Poll::Ready(Ok(response))
    }
}
