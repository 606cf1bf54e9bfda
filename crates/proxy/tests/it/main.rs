//! The host of stdio servers, driven as a service, in front of servers that the tests play themselves.

mod harness;
mod hostile;
mod life;
mod limits;
mod modern;
mod refusals;
mod resume;
mod routing;
mod storm;
