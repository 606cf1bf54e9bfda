//! An MCP server made with the official Rust SDK, with everything that a server can do, in both eras. It offers what
//! `fixtures/compat/servers/fastmcp_server.py` offers, so that one plan serves for both.
//!
//! Transport: the only argument, `stdio` or `http`; the port is in `PORT`, the endpoint is `/mcp`.
//!
//! It is an example, not a binary, so that only those who run the tests compile the SDK.
#![forbid(unsafe_code)]

use axum::http::request::Parts;
#[allow(deprecated, reason = "these are what clients of the revisions before 2026-07-28 use")]
use rmcp::model::SetLevelRequestParams;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
    GetPromptRequestParams, GetPromptResponse, GetPromptResult, InputRequiredResult, InputResponses,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
    ReadResourceResult, ServerConfig, ServerNotification, ServerRequest, SubscribeRequestParams,
    SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, SubscriptionContext, SubscriptionSink};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

type Context = RequestContext<RoleServer>;
type Answer<T> = Result<T, ErrorData>;

/// From the least important to the most.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// How long a call waits for what must happen.
const BOUND: Duration = Duration::from_secs(60);

/// One session, or since 2026-07-28 one request.
#[derive(Clone, Default)]
struct Server {
    session: Arc<Session>,
    process: Arc<Process>,
}

#[derive(Default)]
struct Session {
    subscribed: Mutex<HashSet<String>>,
    level: AtomicUsize,
}

/// What all clients of the process share.
#[derive(Default)]
struct Process {
    /// Calls that were cancelled, by the names that their clients gave them.
    cancelled: Mutex<HashSet<String>>,
    listening: Mutex<Vec<SubscriptionSink>>,
    /// How many were told that they may listen. The SDK tells them a moment before it hands over how to reach them.
    told: AtomicUsize,
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a request is of a revision in which a call ends with its question, and whoever listens is told.
fn is_newest(context: &Context) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

/// A result. Since 2026-07-28 each says whether it is the last one.
fn result<T: DeserializeOwned>(mut wire: Value) -> Answer<T> {
    wire["resultType"] = "complete".into();
    typed(wire)
}

/// A typed message from what stands on the wire.
fn typed<T: DeserializeOwned>(wire: Value) -> Answer<T> {
    serde_json::from_value(wire).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

fn wire(message: &impl Serialize) -> Answer<Value> {
    serde_json::to_value(message).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// What went wrong between this server and its client.
fn broken(error: &rmcp::ServiceError) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

/// What came of a tool.
enum Outcome {
    Text(String),
    /// The client has to answer this first.
    Question(Value),
}

async fn tell(context: &Context, method: &str, params: Value) -> Answer<()> {
    let mut message = json!({ "method": method });
    if !params.is_null() {
        message["params"] = params;
    }
    let message: ServerNotification = typed(message)?;
    context.peer.send_notification(message).await.map_err(|error| broken(&error))
}

/// The client's answer as text, or what it has to answer before it calls again.
async fn ask(context: &Context, given: &InputResponses, method: &str, params: Value) -> Answer<Outcome> {
    let mut message = json!({ "method": method });
    if !params.is_null() {
        message["params"] = params;
    }
    if let Some(answer) = given.get("question") {
        return Ok(Outcome::Text(answer.to_string()));
    }
    if is_newest(context) {
        return Ok(Outcome::Question(message));
    }
    let message: ServerRequest = typed(message)?;
    let answer = context.peer.send_request(message).await.map_err(|error| broken(&error))?;
    Ok(Outcome::Text(wire(&answer)?.to_string()))
}

fn tool(name: &str, description: &str, argument: Option<(&str, &str)>) -> Value {
    let schema = argument.map_or_else(
        || json!({ "type": "object" }),
        |(name, kind)| json!({ "type": "object", "properties": { name: { "type": kind } }, "required": [name] }),
    );
    json!({ "name": name, "description": description, "inputSchema": schema })
}

fn tools() -> Value {
    let mut region =
        tool("region", "Takes an argument that comes in a header field too.", Some(("region", "string")));
    region["inputSchema"]["properties"]["region"]["x-mcp-header"] = "Region".into();
    json!([
        tool("echo", "Gives a text back.", Some(("text", "string"))),
        tool("fail", "Never succeeds.", None),
        tool("big", "A text of that many bytes.", Some(("size", "integer"))),
        tool("count", "Reports each of its steps.", Some(("steps", "integer"))),
        tool("log", "Logs at three levels.", None),
        tool("sample", "Asks the client for a sample.", Some(("prompt", "string"))),
        tool("elicit", "Asks the user for a name.", None),
        tool("roots", "Asks for the client's roots.", None),
        tool("touch", "Says that a resource has changed, to those who asked.", Some(("uri", "string"))),
        tool("relist", "Says that the three lists have changed.", None),
        region,
        tool("wait", "Waits until it is cancelled, for a minute at most.", Some(("call", "string"))),
        tool("cancelled", "Whether a call that waited was cancelled.", Some(("call", "string"))),
    ])
}

fn text_argument<'a>(arguments: &'a Value, name: &str) -> Answer<&'a str> {
    arguments[name]
        .as_str()
        .ok_or_else(|| ErrorData::invalid_params(format!("{name}: a text is needed"), None))
}

fn count_argument(arguments: &Value, name: &str) -> Answer<usize> {
    let count = arguments[name].as_u64().and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| ErrorData::invalid_params(format!("{name}: a count is needed"), None))
}

impl Server {
    /// Tells those who listen, each of whom hears what they asked for.
    async fn publish(&self, method: &str, params: Value) -> Answer<()> {
        let mut message = json!({ "method": method });
        if !params.is_null() {
            message["params"] = params;
        }
        let message: ServerNotification = typed(message)?;
        let all = async {
            while locked(&self.process.listening).len() < self.process.told.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // A client that went in that moment is not waited for for ever.
        let _ = tokio::time::timeout(BOUND / 6, all).await;
        let listening = locked(&self.process.listening).clone();
        for sink in listening {
            // One that has gone, or asked for something else, is not told.
            let _ = sink.send(message.clone()).await;
        }
        Ok(())
    }

    async fn progress(context: &Context, done: usize, total: usize, message: &str) -> Answer<()> {
        let Some(token) = context.meta.get_progress_token() else { return Ok(()) };
        let params =
            json!({ "progressToken": wire(&token)?, "progress": done, "total": total, "message": message });
        tell(context, "notifications/progress", params).await
    }

    async fn call(
        &self,
        name: &str,
        arguments: &Value,
        given: &InputResponses,
        context: &Context,
    ) -> Answer<Outcome> {
        match name {
            "sample" => {
                let content = json!({ "type": "text", "text": text_argument(arguments, "prompt")? });
                let params = json!({ "messages": [{ "role": "user", "content": content }], "maxTokens": 10 });
                ask(context, given, "sampling/createMessage", params).await
            }
            "elicit" => {
                let schema = json!({
                    "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"],
                });
                let params = json!({ "mode": "form", "message": "Who is it?", "requestedSchema": schema });
                ask(context, given, "elicitation/create", params).await
            }
            "roots" => ask(context, given, "roots/list", Value::Null).await,
            _ => self.tell_text(name, arguments, context).await.map(Outcome::Text),
        }
    }

    /// Tools that need no answer of the client.
    async fn tell_text(&self, name: &str, arguments: &Value, context: &Context) -> Answer<String> {
        match name {
            "echo" => text_argument(arguments, "text").map(str::to_owned),
            "big" => Ok("x".repeat(count_argument(arguments, "size")?)),
            "count" => {
                let steps = count_argument(arguments, "steps")?;
                for step in 1..=steps {
                    Self::progress(context, step, steps, &format!("step {step}")).await?;
                }
                Ok(format!("{steps} steps"))
            }
            "log" => {
                let least = if is_newest(context) {
                    let asked = wire(&context.meta.log_level())?;
                    LEVELS.iter().position(|known| asked == *known).unwrap_or(LEVELS.len())
                } else {
                    self.session.level.load(Ordering::Relaxed)
                };
                for (level, text) in [("debug", "low"), ("info", "middle"), ("error", "high")] {
                    if LEVELS.iter().position(|known| *known == level) >= Some(least) {
                        let params = json!({ "level": level, "logger": "compat", "data": text });
                        tell(context, "notifications/message", params).await?;
                    }
                }
                Ok("logged".into())
            }
            "touch" => {
                let uri = text_argument(arguments, "uri")?;
                let (method, params) = ("notifications/resources/updated", json!({ "uri": uri }));
                if is_newest(context) {
                    self.publish(method, params).await?;
                } else if locked(&self.session.subscribed).contains(uri) {
                    tell(context, method, params).await?;
                } else {
                    return Ok("nobody asked".into());
                }
                Ok("told".into())
            }
            "relist" => {
                for list in ["tools", "resources", "prompts"] {
                    let method = format!("notifications/{list}/list_changed");
                    if is_newest(context) {
                        self.publish(&method, Value::Null).await?;
                    } else {
                        tell(context, &method, Value::Null).await?;
                    }
                }
                Ok("said".into())
            }
            "region" => {
                let request = context.extensions.get::<Parts>();
                let field = request.and_then(|request| request.headers.get("mcp-param-region"));
                let field = field.and_then(|field| field.to_str().ok());
                Ok(json!([text_argument(arguments, "region")?, field]).to_string())
            }
            "wait" => {
                let call = text_argument(arguments, "call")?;
                Self::progress(context, 0, 1, "waiting").await?;
                tokio::select! {
                    () = context.ct.cancelled() => {
                        locked(&self.process.cancelled).insert(call.into());
                        Err(ErrorData::internal_error("cancelled", None))
                    }
                    () = tokio::time::sleep(BOUND) => Ok("never cancelled".into()),
                }
            }
            "cancelled" => {
                let call = text_argument(arguments, "call")?;
                let is_cancelled = || locked(&self.process.cancelled).contains(call);
                let some = async {
                    while !is_cancelled() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                // Without it, the answer says so.
                let _ = tokio::time::timeout(BOUND / 3, some).await;
                Ok(is_cancelled().to_string())
            }
            _ => Err(ErrorData::invalid_params(format!("no such tool: {name}"), None)),
        }
    }
}

#[allow(deprecated, reason = "these are what clients of the revisions before 2026-07-28 use")]
impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let info = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {
                "tools": { "listChanged": true },
                "resources": { "subscribe": true, "listChanged": true },
                "prompts": { "listChanged": true },
                "logging": {},
                "completions": {},
            },
            "serverInfo": { "name": "compat-rmcp", "version": "1.0" },
            "instructions": "Everything that a server can do.",
        });
        typed(info).unwrap_or_default()
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: Context) -> Answer<ListToolsResult> {
        result(json!({ "tools": tools() }))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        let tools: Vec<Tool> = typed(tools()).ok()?;
        tools.into_iter().find(|tool| tool.name == name)
    }

    async fn call_tool(&self, request: CallToolRequestParams, context: Context) -> Answer<CallToolResponse> {
        let arguments = request.arguments.map_or_else(|| json!({}), Value::Object);
        let given = request.input_responses.unwrap_or_default();
        let (text, error) = match &*request.name {
            "fail" => ("failed as asked: ä𝄞".to_owned(), true),
            name => match self.call(name, &arguments, &given, &context).await? {
                Outcome::Text(text) => (text, false),
                Outcome::Question(question) => {
                    let questions = json!({ "question": question });
                    return Ok(InputRequiredResult::from_input_requests(typed(questions)?).into());
                }
            },
        };
        let content = [json!({ "type": "text", "text": text })];
        result::<CallToolResult>(json!({ "content": content, "isError": error })).map(Into::into)
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Answer<ListResourcesResult> {
        result(json!({ "resources": [
            { "uri": "compat://text", "name": "text", "mimeType": "text/plain" },
            { "uri": "compat://blob", "name": "blob", "mimeType": "application/octet-stream" },
        ] }))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Answer<ListResourceTemplatesResult> {
        result(json!({ "resourceTemplates": [
            { "uriTemplate": "compat://item/{id}", "name": "item", "mimeType": "text/plain" },
        ] }))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: Context,
    ) -> Answer<ReadResourceResponse> {
        let uri = &request.uri;
        let contents = match uri.as_str() {
            "compat://text" => json!({ "uri": uri, "mimeType": "text/plain", "text": "a text: ä𝄞\u{2028}" }),
            "compat://blob" => {
                json!({ "uri": uri, "mimeType": "application/octet-stream", "blob": "AAECAwQ=" })
            }
            _ => match uri.strip_prefix("compat://item/") {
                Some(id) => json!({ "uri": uri, "mimeType": "text/plain", "text": format!("item {id}") }),
                None => {
                    return Err(ErrorData::resource_not_found(
                        "no such resource",
                        Some(json!({ "uri": uri })),
                    ));
                }
            },
        };
        result::<ReadResourceResult>(json!({ "contents": [contents] })).map(Into::into)
    }

    async fn list_prompts(&self, _: Option<PaginatedRequestParams>, _: Context) -> Answer<ListPromptsResult> {
        let arguments = json!([{ "name": "name", "required": true }]);
        result(json!({ "prompts": [
            { "name": "greet", "description": "Greets somebody.", "arguments": arguments },
        ] }))
    }

    async fn get_prompt(&self, request: GetPromptRequestParams, _: Context) -> Answer<GetPromptResponse> {
        if request.name != "greet" {
            return Err(ErrorData::invalid_params(format!("no such prompt: {}", request.name), None));
        }
        let arguments = wire(&request.arguments)?;
        let text = format!("Say hello to {}.", text_argument(&arguments, "name")?);
        let message = json!({ "role": "user", "content": { "type": "text", "text": text } });
        let greeting = json!({ "description": "Greets somebody.", "messages": [message] });
        result::<GetPromptResult>(greeting).map(Into::into)
    }

    async fn complete(&self, request: CompleteRequestParams, _: Context) -> Answer<CompleteResult> {
        let names = ["Ada", "Alan", "Grace"].into_iter();
        let values: Vec<_> = names.filter(|name| name.starts_with(&request.argument.value)).collect();
        result(json!({ "completion": { "values": values } }))
    }

    async fn set_level(&self, request: SetLevelRequestParams, _: Context) -> Answer<()> {
        let level = wire(&request.level)?;
        let level = LEVELS.iter().position(|known| level == *known);
        self.session.level.store(level.unwrap_or_default(), Ordering::Relaxed);
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        self.process.told.fetch_add(1, Ordering::SeqCst);
        Some(requested.clone())
    }

    async fn listen(&self, subscription: SubscriptionContext) -> Answer<()> {
        locked(&self.process.listening).push(subscription.sink().clone());
        subscription.cancelled().await;
        Ok(())
    }

    async fn subscribe(&self, request: SubscribeRequestParams, _: Context) -> Answer<()> {
        locked(&self.session.subscribed).insert(request.uri);
        Ok(())
    }

    async fn unsubscribe(&self, request: UnsubscribeRequestParams, _: Context) -> Answer<()> {
        locked(&self.session.subscribed).remove(&request.uri);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("stdio") => {
            let running = Server::default().serve(rmcp::transport::stdio()).await?;
            running.waiting().await?;
        }
        Some("http") => {
            let port: u16 = std::env::var("PORT")?.parse()?;
            let listener = TcpListener::bind(("127.0.0.1", port)).await?;
            let sessions = Arc::new(LocalSessionManager::default());
            let config = StreamableHttpServerConfig::default();
            let process = Arc::default();
            let server = move || Ok(Server { session: Arc::default(), process: Arc::clone(&process) });
            let service = StreamableHttpService::new(server, sessions, config);
            axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await?;
        }
        _ => return Err("usage: rmcp_server stdio|http".into()),
    }
    Ok(())
}
