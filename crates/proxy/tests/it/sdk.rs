//! The Rust SDK's server behind the host, in both eras: what the tests play elsewhere, done by another.

use std::sync::Arc;

use http::StatusCode;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ErrorData, ListToolsResult, PaginatedRequestParams,
    ProgressNotificationParam, ServerConfig, SubscriptionFilter,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{RoleServer, ServerHandler, ServiceExt};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::{
    Server, Stream, World, initialize, json_body, modern, modern_post, notification, post, session_id,
};

/// Gives its arguments back after a step of progress, or never. It tells of each call that ended for another reason.
#[derive(Clone, Default)]
struct Echo {
    cancelled: Arc<Notify>,
    changed: Arc<Notify>,
}

impl ServerHandler for Echo {
    fn get_info(&self) -> ServerConfig {
        let capabilities = json!({"tools": {"listChanged": true}});
        let info = json!({"name": "echo", "version": "1"});
        let config =
            json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info});
        serde_json::from_value(config).unwrap()
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let p = json!({"type": "string", "x-mcp-header": "P"});
        let tool =
            |name: &str| json!({"name": name, "inputSchema": {"type": "object", "properties": {"p": p}}});
        Ok(serde_json::from_value(json!({"tools": [tool("echo"), tool("hang")]})).unwrap())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if let Some(token) = context.meta.get_progress_token() {
            context.peer.notify_progress(ProgressNotificationParam::new(token, 0.5)).await.unwrap();
        }
        if request.name == "hang" {
            context.ct.cancelled().await;
            self.cancelled.notify_one();
        }
        let text = serde_json::to_string(&request.arguments).unwrap();
        let result = json!({"content": [{"type": "text", "text": text}]});
        Ok(CallToolResponse::Complete(serde_json::from_value(result).unwrap()))
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        self.changed.notified().await;
        context.sink().notify_tool_list_changed().await.unwrap();
        context.cancelled().await;
        self.cancelled.notify_one();
        Ok(())
    }
}

/// Serves until the input ends.
fn serve(server: Server, echo: Echo) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let Server { input, output, .. } = server;
        echo.serve((input, output)).await.unwrap().waiting().await.unwrap();
    })
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap()
}

fn call(id: &str, tool: &str, token: Option<&str>) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut params = json!({"name": tool, "arguments": {"p": id}});
    if let Some(token) = token {
        params["_meta"]["progressToken"] = token.into();
    }
    let mut request = modern_post(&modern(id, "tools/call", params).to_string());
    request.headers_mut().insert("mcp-param-p", id.parse().unwrap());
    request
}

#[tokio::test]
async fn modern_callers() {
    let mut world = World::new();
    let echo = Echo::default();
    let discover = world.start(modern_post(&modern("d", "server/discover", json!({})).to_string()));
    let server = serve(world.server().await, echo.clone());
    let discovered = json_body(discover.await.unwrap()).await;
    assert_eq!(discovered["id"], "d");
    let versions = discovered["result"]["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!("2026-07-28")), "{discovered}");

    let mut with_progress = Stream::new(world.send(call("a", "echo", Some("t"))).await);
    assert_eq!(with_progress.next().await.unwrap()["params"]["progressToken"], "t");
    let answer = with_progress.next().await.unwrap();
    assert_eq!((&answer["id"], text(&answer)), (&json!("a"), r#"{"p":"a"}"#));
    let mut wrong = call("b", "echo", None);
    wrong.headers_mut().remove("mcp-param-p");
    let (status, error) = world.status(wrong).await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!(-32020)));
    let (status, error) = world.status(modern_post(&modern(1, "no/such", json!({})).to_string())).await;
    assert_eq!((status, &error["id"], &error["error"]["code"]), (404, &json!(1), &json!(-32601)));

    let mut hanging = Stream::new(world.send(call("c", "hang", Some("t"))).await);
    hanging.next().await.unwrap();
    drop(hanging);
    echo.cancelled.notified().await;

    let filter = json!({"notifications": {"toolsListChanged": true}});
    let listen = modern("l", "subscriptions/listen", filter).to_string();
    let mut subscription = Stream::new(world.send(modern_post(&listen)).await);
    let stamp = |message: Value| message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].clone();
    let acknowledged = subscription.next().await.unwrap();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(stamp(acknowledged), "l");
    echo.changed.notify_one();
    let changed = subscription.next().await.unwrap();
    assert_eq!(changed["method"], "notifications/tools/list_changed");
    assert_eq!(stamp(changed), "l");
    drop(subscription);
    echo.cancelled.notified().await;

    world.host.shutdown().await;
    server.await.unwrap();
}

#[tokio::test]
async fn a_session() {
    let mut world = World::new();
    let mut begin = initialize("2025-11-25");
    begin["params"]["capabilities"] = json!({});
    begin["params"]["clientInfo"] = json!({"name": "test", "version": "1"});
    let response = world.start(post(None, &begin.to_string()));
    let server = serve(world.server().await, Echo::default());
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let id = session_id(&response);
    let initialized = notification("notifications/initialized").to_string();
    assert_eq!(world.status(post(Some(&id), &initialized)).await.0, 202);
    let params = json!({"name": "echo", "arguments": {"p": 1}, "_meta": {"progressToken": "t"}});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let mut stream = Stream::new(world.send(post(Some(&id), &call.to_string())).await);
    assert_eq!(stream.next().await.unwrap()["params"]["progressToken"], "t");
    assert_eq!(text(&stream.next().await.unwrap()), r#"{"p":1}"#);
    world.host.shutdown().await;
    server.await.unwrap();
}
