//! Another program on the session bus of a test: it looks at the keychain, locks it, and stands in for the desktop's
//! prompter.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use dbus::Path;
use dbus::arg::Variant;
use dbus::blocking::stdintf::org_freedesktop_dbus::Properties as _;
use dbus::blocking::{Connection, Proxy};
use dbus::channel::Channel;
use thv_e2e::{Failure, Result, ensure};

const SECRETS: &str = "org.freedesktop.secrets";
const SERVICE: &str = "org.freedesktop.Secret.Service";

/// How long an answer may take, or a call that a test waits for.
const BOUND: Duration = Duration::from_secs(30);

/// A connection.
pub(crate) struct Bus(Connection);

fn failed(error: &dbus::Error) -> Failure {
    Failure::new(format!("on the bus: {error}"))
}

impl Bus {
    /// Connects to the bus at this address.
    pub(crate) fn open(address: &str) -> Result<Self> {
        let mut channel = Channel::open_private(address).map_err(|error| failed(&error))?;
        channel.register().map_err(|error| failed(&error))?;
        Ok(Self(channel.into()))
    }

    fn service(&self) -> Proxy<'_, &Connection> {
        self.0.with_proxy(SECRETS, "/org/freedesktop/secrets", BOUND)
    }

    /// Locks the default collection, as a desktop does when it is left alone.
    pub(crate) fn lock(&self) -> Result {
        let service = self.service();
        let (collection,): (Path<'_>,) =
            service.method_call(SERVICE, "ReadAlias", ("default",)).map_err(|error| failed(&error))?;
        let (locked, _prompt): (Vec<Path<'_>>, Path<'_>) =
            service.method_call(SERVICE, "Lock", (vec![collection],)).map_err(|error| failed(&error))?;
        ensure!(locked.len() == 1, "the collection was not locked");
        Ok(())
    }

    /// The items of a service by their names, values included. The keychain must be unlocked.
    pub(crate) fn items(&self, service: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let wanted = HashMap::from([("service", service)]);
        let (unlocked, locked): (Vec<Path<'_>>, Vec<Path<'_>>) =
            self.service().method_call(SERVICE, "SearchItems", (wanted,)).map_err(|error| failed(&error))?;
        ensure!(locked.is_empty(), "{} items are locked", locked.len());
        let (_, session): (Variant<String>, Path<'_>) = self
            .service()
            .method_call(SERVICE, "OpenSession", ("plain", Variant("")))
            .map_err(|error| failed(&error))?;
        let mut items = BTreeMap::new();
        for path in unlocked {
            let item = self.0.with_proxy(SECRETS, path, BOUND);
            let attributes: HashMap<String, String> =
                item.get("org.freedesktop.Secret.Item", "Attributes").map_err(|error| failed(&error))?;
            type Kept = (Path<'static>, Vec<u8>, Vec<u8>, String);
            let ((_, _, value, _),): (Kept,) = item
                .method_call("org.freedesktop.Secret.Item", "GetSecret", (session.clone(),))
                .map_err(|error| failed(&error))?;
            let name = attributes.get("username").cloned().unwrap_or_default();
            ensure!(!items.contains_key(&name), "two items are named {name}");
            items.insert(name, value);
        }
        Ok(items)
    }

    /// From now on this connection sees every message on the bus, and can be used for nothing else.
    pub(crate) fn monitor(self) -> Result<Monitor> {
        let bus = self.0.with_proxy("org.freedesktop.DBus", "/org/freedesktop/DBus", BOUND);
        let everything = (Vec::<String>::new(), 0_u32);
        let (): () = bus
            .method_call("org.freedesktop.DBus.Monitoring", "BecomeMonitor", everything)
            .map_err(|error| failed(&error))?;
        Ok(Monitor(self.0))
    }

    /// The desktop's prompter, which takes calls and answers none: nobody sits in front of it.
    pub(crate) fn prompter(self) -> Result<Monitor> {
        self.0
            .request_name("org.gnome.keyring.SystemPrompter", false, true, false)
            .map_err(|error| failed(&error))?;
        Ok(Monitor(self.0))
    }
}

/// A connection that only listens.
pub(crate) struct Monitor(Connection);

impl Monitor {
    /// Waits for a call of this method.
    pub(crate) fn await_call(&self, method: &str) -> Result {
        let end = Instant::now() + BOUND;
        while Instant::now() < end {
            let message = self.0.channel().blocking_pop_message(BOUND).map_err(|error| failed(&error))?;
            if message.as_ref().and_then(dbus::Message::member).is_some_and(|member| &*member == method) {
                return Ok(());
            }
        }
        Err(Failure::new(format!("{method} was not called")))
    }

    /// Whether this method was called since the last look.
    pub(crate) fn was_called(&self, method: &str) -> Result<bool> {
        let mut called = false;
        loop {
            let message =
                self.0.channel().blocking_pop_message(Duration::ZERO).map_err(|error| failed(&error))?;
            let Some(message) = message else { return Ok(called) };
            called |= message.member().is_some_and(|member| &*member == method);
        }
    }
}
