//! The host of stdio servers, driven as a service, in front of servers that the tests play themselves, and of one
//! that they do not.

mod harness;
mod hostile;
mod life;
mod limits;
mod modern;
mod refusals;
mod resume;
mod routing;
mod sdk;
mod storm;
