//! What each tool and each prompt does, by the names that the suite knows.

use crate::talk::{Said, Talk};
use crate::{Answer, OFFERS};
use rmcp::ErrorData;
use serde_json::{Value, json};
use std::time::Duration;

/// One red pixel.
pub(crate) const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC";
/// Half a millisecond of silence.
const WAV: &str = "UklGRigAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQQAAACAgICA";

/// Between two messages of one call, so that they are seen apart.
const STEP: Duration = Duration::from_millis(50);

fn text(text: impl Into<String>) -> Value {
    json!({ "type": "text", "text": text.into() })
}

fn image() -> Value {
    json!({ "type": "image", "data": PNG, "mimeType": "image/png" })
}

fn embedded(uri: &str, content: &str) -> Value {
    let resource = json!({ "uri": uri, "mimeType": "text/plain", "text": content });
    json!({ "type": "resource", "resource": resource })
}

/// A question to the user.
fn form(message: &str, schema: &Value) -> Value {
    json!({ "method": "elicitation/create", "params": { "message": message, "requestedSchema": schema } })
}

/// A question to the user with one field.
fn field(message: &str, name: &str, kind: &str) -> Value {
    form(message, &json!({ "type": "object", "properties": { name: { "type": kind } }, "required": [name] }))
}

fn name() -> Value {
    field("What is your name?", "name", "string")
}

/// A question to the client's model.
fn sample(prompt: &str) -> Value {
    let messages = [json!({ "role": "user", "content": text(prompt) })];
    json!({ "method": "sampling/createMessage", "params": { "messages": messages, "maxTokens": 100 } })
}

fn roots() -> Value {
    json!({ "method": "roots/list" })
}

fn argument<'a>(arguments: &'a Value, name: &str) -> Answer<&'a str> {
    let missing = || ErrorData::invalid_params(format!("{name}: a text is needed"), None);
    arguments[name].as_str().ok_or_else(missing)
}

/// Asks, and says what came of it.
async fn ask(talk: &mut Talk<'_>, stateful: bool, questions: &[(&str, Value)]) -> Answer<Said> {
    Ok(match talk.ask(stateful, questions).await? {
        Ok(answers) => Said::Contents(vec![text(format!("state-ok: {}", Value::from(answers)))]),
        Err(question) => question,
    })
}

pub(crate) async fn call(talk: &mut Talk<'_>, tool: &str, arguments: &Value) -> Answer<Said> {
    let contents = match tool {
        "test_simple_text" => vec![text("Plain text, as simple as it gets.")],
        "test_error_handling" => vec![text("This tool fails, as it should.")],
        "test_image_content" => vec![image()],
        "test_audio_content" => vec![json!({ "type": "audio", "data": WAV, "mimeType": "audio/wav" })],
        "test_embedded_resource" => {
            vec![embedded("test://embedded-resource", "A resource inside of a result.")]
        }
        "test_multiple_content_types" => {
            vec![text("Three at once."), image(), embedded("test://mixed", "The third.")]
        }
        "test_tool_with_logging" | "test_logging_tool" => {
            for moment in ["before", "during", "after"] {
                talk.log(&format!("{moment} the work")).await?;
                tokio::time::sleep(STEP).await;
            }
            vec![text("The work is done.")]
        }
        "test_tool_with_progress" => {
            for percent in [0, 50, 100] {
                talk.progress(percent, 100).await?;
                tokio::time::sleep(STEP).await;
            }
            vec![text("All of it is done.")]
        }
        "test_x_mcp_header" => vec![text(arguments["region"].as_str().unwrap_or("nowhere"))],
        "json_schema_2020_12_tool" => vec![text(arguments.to_string())],
        "test_missing_capability" => {
            talk.require("sampling")?;
            vec![text("The client can sample.")]
        }
        "test_trigger_tool_change" | "test_trigger_prompt_change" => {
            talk.announce(if tool.contains("tool_change") { "tools" } else { "prompts" }).await;
            vec![text("said")]
        }
        _ => return question(talk, tool, arguments).await,
    };
    Ok(Said::Contents(contents))
}

/// The tools that ask their client something.
async fn question(talk: &mut Talk<'_>, tool: &str, arguments: &Value) -> Answer<Said> {
    match tool {
        "test_sampling" => ask(talk, false, &[("sample", sample(argument(arguments, "prompt")?))]).await,
        "test_elicitation" => {
            let fields = json!({ "username": { "type": "string" }, "email": { "type": "string" } });
            let schema = json!({ "type": "object", "properties": fields, "required": ["username", "email"] });
            ask(talk, false, &[("user", form(argument(arguments, "message")?, &schema))]).await
        }
        "test_elicitation_sep1034_defaults" | "test_elicitation_sep1330_enums" => {
            ask(talk, false, &[("user", form("Is this right?", &OFFERS["forms"][tool]))]).await
        }
        "test_streaming_elicitation" => {
            talk.progress(0, 1).await?;
            ask(talk, false, &[("user", field("Shall it go on?", "ok", "boolean"))]).await
        }
        "test_input_required_result_elicitation" => ask(talk, false, &[("user_name", name())]).await,
        "test_input_required_result_sampling" => {
            ask(talk, false, &[("capital_question", sample("What is the capital of France?"))]).await
        }
        "test_input_required_result_list_roots" => ask(talk, false, &[("client_roots", roots())]).await,
        "test_input_required_result_multiple_inputs" => {
            let questions =
                [("user_name", name()), ("greeting", sample("Write a greeting.")), ("client_roots", roots())];
            ask(talk, true, &questions).await
        }
        "test_input_required_result_multi_round" => match talk.ask(true, &[("step1", name())]).await? {
            Ok(_) => {
                let colour = field("Which colour do you like?", "color", "string");
                ask(talk, true, &[("step2", colour)]).await
            }
            Err(question) => Ok(question),
        },
        "test_input_required_result_request_state" | "test_input_required_result_tampered_state" => {
            ask(talk, true, &[("confirm", field("Is this right?", "ok", "boolean"))]).await
        }
        "test_input_required_result_capabilities" => {
            let mut questions = Vec::new();
            for (capability, question) in [("elicitation", name()), ("sampling", sample("Write a greeting."))]
            {
                if talk.declared(capability)? {
                    questions.push((capability, question));
                }
            }
            ask(talk, false, &questions).await
        }
        _ => Err(ErrorData::invalid_params(format!("There is no {tool}."), None)),
    }
}

pub(crate) async fn prompt(talk: &mut Talk<'_>, prompt: &str, arguments: &Value) -> Answer<Said> {
    Ok(Said::Contents(match prompt {
        "test_simple_prompt" => vec![text("A prompt, as simple as it gets.")],
        "test_prompt_with_arguments" => {
            let [one, two] = [argument(arguments, "arg1")?, argument(arguments, "arg2")?];
            vec![text(format!("The arguments are {one} and {two}."))]
        }
        "test_prompt_with_embedded_resource" => {
            let uri = argument(arguments, "resourceUri")?;
            vec![embedded(uri, "A resource inside of a prompt."), text("What does it say?")]
        }
        "test_prompt_with_image" => vec![image(), text("What does it show?")],
        "test_input_required_result_prompt" => {
            return ask(talk, false, &[("user_context", field("What is it about?", "context", "string"))])
                .await;
        }
        _ => return Err(ErrorData::invalid_params(format!("There is no {prompt}."), None)),
    }))
}
