//! The real parts themselves: what the other tests put behind `thv` works without it.

use serde_json::json;
use thv_e2e::{Exit, Home, McpStdio, Result, need_part};

#[test]
fn mcp_server_time_answers_over_its_own_stdio() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let mut time = McpStdio::new(home.start(home.command(python.join("mcp-server-time")))?);
    assert_eq!(time.initialize()?["serverInfo"]["name"], "mcp-time");
    let tools = time.request("tools/list", &json!({}))?;
    assert_eq!(tools["result"]["tools"][0]["name"], "get_current_time");
    assert_eq!(time.finish()?, (Exit::Code(0), Vec::new()));
    home.close()
}

#[test]
fn the_demo_server_answers_over_its_own_stdio() -> Result {
    let home = Home::new()?;
    let mut demo = McpStdio::new(home.start(home.command(crate::DEMO_SERVER))?);
    assert_eq!(demo.initialize()?["serverInfo"]["name"], "demo-server");
    let echo = json!({ "name": "echo", "arguments": { "text": "ä" } });
    assert_eq!(demo.request("tools/call", &echo)?["result"]["content"][0]["text"], "ä");
    assert_eq!(demo.finish()?, (Exit::Code(0), Vec::new()));
    home.close()
}
