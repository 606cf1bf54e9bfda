//! Messages out of an event stream, with what it takes to resume it.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use thv_wire::skim::Skimmed;
use thv_wire::sse::{EventDecoder, EventError};

use crate::exchange::Body;
use crate::failure::Failure;
use crate::room::{Place, Room, SMALL};

/// One event stream, over as many replies as it takes.
pub(crate) struct Events {
    body: Body,
    decoder: EventDecoder,
    limit: usize,
    room: Room,
    /// For what the decoder holds.
    place: Place,
    last_id: Option<String>,
    retry: Option<Duration>,
    news: bool,
}

/// What comes out of it.
pub(crate) enum Next {
    /// The data of an event: a message, one hopes.
    Message(Bytes),
    /// Where messages are posted: what a stream of MCP 2024-11-05 begins with.
    Endpoint(Bytes),
    /// A message over the limit, which is gone.
    TooLarge(Skimmed, Failure),
    /// The reply has ended, in order or not.
    End,
}

impl Events {
    pub(crate) fn new(body: Body, limit: usize, room: Room) -> Self {
        Self {
            body,
            decoder: EventDecoder::new(limit),
            limit,
            room,
            place: Place::default(),
            last_id: None,
            retry: None,
            news: false,
        }
    }

    /// Goes on with another reply.
    pub(crate) fn resume(&mut self, body: Body) {
        self.body = body;
        self.decoder = EventDecoder::new(self.limit);
        self.place = Place::default();
    }

    /// Where to resume; nothing if the server never gave an id, or took it back.
    pub(crate) fn last_id(&self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.last_id.as_ref()?.as_bytes()).ok()
    }

    /// How long the server wants to be left alone before that.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Whether anything came since it was last asked, be it an id alone.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// The next message. Nothing else counts, whatever it is named.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            match self.first().await {
                Next::Endpoint(_) => tracing::debug!("event that is no message dropped"),
                next => return next,
            }
        }
    }

    /// The next message or endpoint.
    pub(crate) async fn first(&mut self) -> Next {
        loop {
            match self.decoder.next_event() {
                Some(Ok(event)) => {
                    self.news = true;
                    self.note_id(event.id);
                    self.retry = event.retry.or(self.retry);
                    let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
                    let data =
                        if data.len() > SMALL { std::mem::take(&mut self.place).bind(data) } else { data };
                    match event.event.as_deref() {
                        None | Some("message") => return Next::Message(data),
                        Some("endpoint") => return Next::Endpoint(data),
                        Some(_) => {}
                    }
                }
                Some(Err(EventError::TooLong { limit, length, id, message })) => {
                    self.news = true;
                    self.note_id(id);
                    let failure = Failure::TooLarge { what: "answer", size: Some(length), limit };
                    return Next::TooLarge(message, failure);
                }
                Some(Err(error)) => tracing::debug!(%error, "event dropped"),
                None => match self.body.chunk().await {
                    Ok(Some(bytes)) => {
                        self.room.fit(&mut self.place, self.decoder.held() + bytes.len()).await;
                        self.decoder.push(&bytes);
                    }
                    Ok(None) | Err(_) => return Next::End,
                },
            }
        }
    }

    fn note_id(&mut self, id: Option<String>) {
        if let Some(id) = id {
            self.last_id = Some(id).filter(|id| !id.is_empty());
        }
    }
}
