//! An MCP server made with the official Rust SDK, with all that the server scenarios of the conformance suite look
//! for. What it offers stands in `offers.json`; what a tool or a prompt does is in [`acts`].
//!
//! Transport: the only argument, `stdio` or `http`; the port is in `PORT`, the endpoint is `/mcp`.
//!
//! It is an example, not a binary, so that only those who run the tests compile the SDK.
#![forbid(unsafe_code)]

mod acts;
mod talk;

#[allow(deprecated, reason = "these are what clients of the revisions before 2026-07-28 use")]
use rmcp::model::SetLevelRequestParams;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
    GetPromptRequestParams, GetPromptResponse, GetPromptResult, InputRequiredResult, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ServerConfig,
    SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use talk::{Said, State, Talk};
use tokio::net::TcpListener;

pub(crate) type Context = RequestContext<RoleServer>;
pub(crate) type Answer<T> = Result<T, ErrorData>;

static OFFERS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("offers.json")).unwrap_or_default());

/// One session; all of them share what subscribers are told.
#[derive(Clone)]
struct Server {
    state: Arc<State>,
}

/// A typed message from what stands on the wire.
pub(crate) fn typed<T: DeserializeOwned>(wire: Value) -> Answer<T> {
    serde_json::from_value(wire).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

pub(crate) fn wire(message: &impl Serialize) -> Answer<Value> {
    serde_json::to_value(message).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// A list of offers as a result.
fn list<T: DeserializeOwned>(of: &str) -> Answer<T> {
    let mut wire = json!({ "resultType": "complete" });
    wire[of] = OFFERS[of].clone();
    typed(wire)
}

fn contents(uri: &str) -> Answer<Value> {
    let content = match uri {
        "test://static-text" => json!({ "mimeType": "text/plain", "text": "A text that never changes." }),
        "test://static-binary" => json!({ "mimeType": "image/png", "blob": acts::PNG }),
        "test://watched-resource" => {
            json!({ "mimeType": "text/plain", "text": "A text that one can subscribe to." })
        }
        _ => {
            let id = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
            let Some(id) = id else {
                let data = Some(json!({ "uri": uri }));
                return Err(ErrorData::invalid_params("There is no such resource.", data));
            };
            json!({ "mimeType": "application/json", "text": json!({ "id": id }).to_string() })
        }
    };
    let mut content = content;
    content["uri"] = uri.into();
    Ok(content)
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
            "serverInfo": { "name": "conformance-rmcp", "version": "1.0" },
            "instructions": "Everything that the conformance suite looks for.",
        });
        typed(info).unwrap_or_default()
    }

    /// For the SDK, which compares the headers of a call with the schema of its tool.
    fn get_tool(&self, name: &str) -> Option<Tool> {
        let tools = OFFERS["tools"].as_array()?;
        typed(tools.iter().find(|tool| tool["name"] == name)?.clone()).ok()
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Answer<()> {
        let number = self.state.subscribe(context.sink().clone());
        context.cancelled().await;
        self.state.unsubscribe(number);
        Ok(())
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: Context) -> Answer<ListToolsResult> {
        list("tools")
    }

    async fn call_tool(&self, request: CallToolRequestParams, context: Context) -> Answer<CallToolResponse> {
        let mut talk = Talk::new(
            &self.state,
            &context,
            request.input_responses.as_ref(),
            request.request_state.as_deref(),
        )?;
        let arguments = request.arguments.map_or_else(|| json!({}), Value::Object);
        match acts::call(&mut talk, &request.name, &arguments).await? {
            Said::Contents(content) => {
                let is_error = request.name == "test_error_handling";
                typed::<CallToolResult>(
                    json!({ "resultType": "complete", "content": content, "isError": is_error }),
                )
                .map(Into::into)
            }
            Said::Question(question) => typed::<InputRequiredResult>(question).map(Into::into),
        }
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Answer<ListResourcesResult> {
        list("resources")
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Answer<ListResourceTemplatesResult> {
        list("resourceTemplates")
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: Context,
    ) -> Answer<ReadResourceResponse> {
        let contents = contents(&request.uri)?;
        typed::<ReadResourceResult>(json!({ "resultType": "complete", "contents": [contents] }))
            .map(Into::into)
    }

    async fn list_prompts(&self, _: Option<PaginatedRequestParams>, _: Context) -> Answer<ListPromptsResult> {
        list("prompts")
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: Context,
    ) -> Answer<GetPromptResponse> {
        let mut talk = Talk::new(
            &self.state,
            &context,
            request.input_responses.as_ref(),
            request.request_state.as_deref(),
        )?;
        match acts::prompt(&mut talk, &request.name, &wire(&request.arguments)?).await? {
            Said::Contents(contents) => {
                let messages: Vec<_> = contents
                    .into_iter()
                    .map(|content| json!({ "role": "user", "content": content }))
                    .collect();
                typed::<GetPromptResult>(json!({ "resultType": "complete", "messages": messages }))
                    .map(Into::into)
            }
            Said::Question(question) => typed::<InputRequiredResult>(question).map(Into::into),
        }
    }

    async fn complete(&self, request: CompleteRequestParams, _: Context) -> Answer<CompleteResult> {
        let values = ["test one", "test two"].into_iter();
        let values: Vec<_> = values.filter(|value| value.starts_with(&request.argument.value)).collect();
        let completion = json!({ "total": values.len(), "hasMore": false, "values": values });
        typed(json!({ "resultType": "complete", "completion": completion }))
    }

    async fn set_level(&self, _: SetLevelRequestParams, _: Context) -> Answer<()> {
        Ok(())
    }

    async fn subscribe(&self, request: SubscribeRequestParams, _: Context) -> Answer<()> {
        contents(&request.uri).map(drop)
    }

    async fn unsubscribe(&self, request: UnsubscribeRequestParams, _: Context) -> Answer<()> {
        contents(&request.uri).map(drop)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server { state: Arc::new(State::new()?) };
    match std::env::args().nth(1).as_deref() {
        Some("stdio") => {
            server.serve(rmcp::transport::stdio()).await?.waiting().await?;
        }
        Some("http") => {
            let port: u16 = std::env::var("PORT")?.parse()?;
            let listener = TcpListener::bind(("127.0.0.1", port)).await?;
            let sessions = Arc::new(LocalSessionManager::default());
            let config = StreamableHttpServerConfig::default();
            let service = StreamableHttpService::new(move || Ok(server.clone()), sessions, config);
            axum::serve(listener, axum::Router::new().nest_service("/mcp", service)).await?;
        }
        _ => return Err("usage: rmcp_conformance stdio|http".into()),
    }
    Ok(())
}
