//! An MCP server made with the official Rust SDK, with everything that a server can do. It offers what
//! `fixtures/compat/servers/fastmcp_server.py` offers, so that one plan serves for both.
//!
//! Transport: the only argument, `stdio` or `http`; the port is in `PORT`, the endpoint is `/mcp`.
//!
//! It is an example, not a binary, so that only those who run the tests compile the SDK.
#![forbid(unsafe_code)]

#[allow(deprecated, reason = "these are what clients of the revisions before 2026-07-28 use")]
use rmcp::model::SetLevelRequestParams;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
    GetPromptRequestParams, GetPromptResponse, GetPromptResult, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ServerConfig, ServerNotification,
    ServerRequest, SubscribeRequestParams, UnsubscribeRequestParams,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

type Context = RequestContext<RoleServer>;
type Answer<T> = Result<T, ErrorData>;

/// From the least important to the most.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// How long a call waits for what must happen.
const BOUND: Duration = Duration::from_secs(60);

/// One session.
#[derive(Clone, Default)]
struct Server(Arc<State>);

#[derive(Default)]
struct State {
    subscribed: Mutex<HashSet<String>>,
    level: AtomicUsize,
    cancelled: AtomicUsize,
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

async fn tell(context: &Context, method: &str, params: Value) -> Answer<()> {
    let mut message = json!({ "method": method });
    if !params.is_null() {
        message["params"] = params;
    }
    let message: ServerNotification = typed(message)?;
    context.peer.send_notification(message).await.map_err(|error| broken(&error))
}

/// The client's answer as text.
async fn ask(context: &Context, method: &str, params: Value) -> Answer<String> {
    let mut message = json!({ "method": method });
    if !params.is_null() {
        message["params"] = params;
    }
    let message: ServerRequest = typed(message)?;
    let answer = context.peer.send_request(message).await.map_err(|error| broken(&error))?;
    Ok(wire(&answer)?.to_string())
}

fn tool(name: &str, description: &str, argument: Option<(&str, &str)>) -> Value {
    let schema = argument.map_or_else(
        || json!({ "type": "object" }),
        |(name, kind)| json!({ "type": "object", "properties": { name: { "type": kind } }, "required": [name] }),
    );
    json!({ "name": name, "description": description, "inputSchema": schema })
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
    fn subscribed<T>(&self, with: impl FnOnce(&mut HashSet<String>) -> T) -> T {
        with(&mut self.0.subscribed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn progress(context: &Context, done: usize, total: usize, message: &str) -> Answer<()> {
        let Some(token) = context.meta.get_progress_token() else { return Ok(()) };
        let params =
            json!({ "progressToken": wire(&token)?, "progress": done, "total": total, "message": message });
        tell(context, "notifications/progress", params).await
    }

    async fn call(&self, name: &str, arguments: &Value, context: &Context) -> Answer<String> {
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
                for (level, text) in [("debug", "low"), ("info", "middle"), ("error", "high")] {
                    if LEVELS.iter().position(|known| *known == level)
                        >= Some(self.0.level.load(Ordering::Relaxed))
                    {
                        let params = json!({ "level": level, "logger": "compat", "data": text });
                        tell(context, "notifications/message", params).await?;
                    }
                }
                Ok("logged".into())
            }
            "sample" => {
                let content = json!({ "type": "text", "text": text_argument(arguments, "prompt")? });
                let params = json!({ "messages": [{ "role": "user", "content": content }], "maxTokens": 10 });
                ask(context, "sampling/createMessage", params).await
            }
            "elicit" => {
                let schema = json!({
                    "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"],
                });
                let params = json!({ "mode": "form", "message": "Who is it?", "requestedSchema": schema });
                ask(context, "elicitation/create", params).await
            }
            "roots" => ask(context, "roots/list", Value::Null).await,
            "touch" => {
                let uri = text_argument(arguments, "uri")?;
                if !self.subscribed(|subscribed| subscribed.contains(uri)) {
                    return Ok("nobody asked".into());
                }
                tell(context, "notifications/resources/updated", json!({ "uri": uri })).await?;
                Ok("told".into())
            }
            "relist" => {
                for list in ["tools", "resources", "prompts"] {
                    tell(context, &format!("notifications/{list}/list_changed"), Value::Null).await?;
                }
                Ok("said".into())
            }
            "wait" => {
                Self::progress(context, 0, 1, "waiting").await?;
                tokio::select! {
                    () = context.ct.cancelled() => {
                        self.0.cancelled.fetch_add(1, Ordering::SeqCst);
                        Err(ErrorData::internal_error("cancelled", None))
                    }
                    () = tokio::time::sleep(BOUND) => Ok("never cancelled".into()),
                }
            }
            "cancelled" => {
                let some = async {
                    while self.0.cancelled.load(Ordering::SeqCst) == 0 {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                // Without any, the number says so.
                let _ = tokio::time::timeout(BOUND / 3, some).await;
                Ok(self.0.cancelled.load(Ordering::SeqCst).to_string())
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
        result(json!({ "tools": [
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
            tool("wait", "Waits until it is cancelled, for a minute at most.", None),
            tool("cancelled", "How many calls were cancelled.", None),
        ] }))
    }

    async fn call_tool(&self, request: CallToolRequestParams, context: Context) -> Answer<CallToolResponse> {
        let arguments = request.arguments.map_or_else(|| json!({}), Value::Object);
        let (text, error) = match &*request.name {
            "fail" => ("failed as asked: ä𝄞".to_owned(), true),
            name => (self.call(name, &arguments, &context).await?, false),
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
        self.0.level.store(level.unwrap_or_default(), Ordering::Relaxed);
        Ok(())
    }

    async fn subscribe(&self, request: SubscribeRequestParams, _: Context) -> Answer<()> {
        self.subscribed(|subscribed| subscribed.insert(request.uri));
        Ok(())
    }

    async fn unsubscribe(&self, request: UnsubscribeRequestParams, _: Context) -> Answer<()> {
        self.subscribed(|subscribed| subscribed.remove(&request.uri));
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
            let service = StreamableHttpService::new(|| Ok(Server::default()), sessions, config);
            axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await?;
        }
        _ => return Err("usage: rmcp_server stdio|http".into()),
    }
    Ok(())
}
