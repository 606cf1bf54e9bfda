//! The `x-mcp-header` annotations of a tool's input schema (2026-07-28, `basic/transports/streamable-http`,
//! "Schema Extension").

use std::borrow::Cow;
use std::fmt;

use http::HeaderName;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::message::text;

const ANNOTATION: &str = "x-mcp-header";
/// A schema below this depth is not taken apart, since that costs a look at its whole text for each level.
const MAX_DEPTH: usize = 64;

/// A parameter that is repeated in a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// `mcp-param-` and the name that the annotation gives.
    pub header: HeaderName,
    /// Where its value stands in the arguments: the names of members, from the outside in.
    pub path: Vec<String>,
    /// Whether the schema calls it an integer. Those are compared by value.
    pub integer: bool,
}

/// Why a tool's annotations are invalid. A client over HTTP leaves such a tool out of `tools/list`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAnnotation {
    /// The value is no string, is empty, or is no token (RFC 9110, section 5.6.2).
    #[error("`x-mcp-header` of `{0}` cannot be part of a header's name")]
    NoToken(String),
    /// Two parameters would share a header; case makes no difference.
    #[error("`x-mcp-header` of `{0}` is taken already")]
    Taken(String),
    /// The parameter is not one string, integer or boolean.
    #[error("`x-mcp-header` of `{0}`, which is neither a string nor an integer nor a boolean")]
    NotPrimitive(String),
    /// It is not on a chain of `properties` from the root.
    #[error("`x-mcp-header` where no chain of `properties` leads to")]
    Unreachable,
    /// Two readers could take the schema differently.
    #[error("a schema with `x-mcp-header` names a member twice, or in no text")]
    Ambiguous,
    /// It lies so deep that it is not looked at.
    #[error("`x-mcp-header` more than {MAX_DEPTH} levels deep")]
    TooDeep,
}

/// How the value of a keyword holds schemas.
enum Holds {
    /// The one keyword that keeps a parameter reachable.
    Properties,
    One,
    List,
    /// `items` of older drafts is one schema or a list of them.
    OneOrList,
    Map,
    Nothing,
}

/// The keywords of JSON Schema that hold schemas. What others hold is data, where an annotation is none. `$ref` is
/// not followed.
fn holds(keyword: &str) -> Holds {
    match keyword {
        "properties" => Holds::Properties,
        "contains"
        | "unevaluatedItems"
        | "additionalItems"
        | "additionalProperties"
        | "propertyNames"
        | "unevaluatedProperties"
        | "not"
        | "if"
        | "then"
        | "else"
        | "contentSchema" => Holds::One,
        "items" => Holds::OneOrList,
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => Holds::List,
        "patternProperties" | "dependentSchemas" | "dependencies" | "$defs" | "definitions" => Holds::Map,
        _ => Holds::Nothing,
    }
}

/// The annotated parameters of an input schema.
///
/// # Errors
/// [`InvalidAnnotation`], if one of them breaks the rules: then the tool counts as malformed.
pub fn params(input_schema: &RawValue) -> Result<Vec<Param>, InvalidAnnotation> {
    let mut found: Vec<Param> = Vec::new();
    let mut open = vec![(Some(Vec::new()), input_schema)];
    let mut depth = vec![0_usize];
    while let (Some((path, schema)), Some(level)) = (open.pop(), depth.pop()) {
        let Some(pairs) = pairs(schema.get()) else {
            if schema.get().starts_with('{') && may_annotate(schema.get()) {
                return Err(InvalidAnnotation::Ambiguous);
            }
            continue;
        };
        if level >= MAX_DEPTH {
            if may_annotate(schema.get()) {
                return Err(InvalidAnnotation::TooDeep);
            }
            continue;
        }
        if let Some(param) = annotated(path.as_deref(), &pairs)? {
            if found.iter().any(|other| other.header == param.header) {
                return Err(InvalidAnnotation::Taken(param.path.join(".")));
            }
            found.push(param);
        }
        for (keyword, value) in pairs {
            let before = open.len();
            subschemas(&keyword, value, path.as_deref(), &mut open);
            depth.resize(depth.len() + open.len() - before, level + 1);
        }
    }
    // Parameters come in an order of their own: that of the text is the stack's, backwards.
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

type Open<'a> = (Option<Vec<String>>, &'a RawValue);

fn subschemas<'a>(keyword: &str, value: &'a RawValue, path: Option<&[String]>, open: &mut Vec<Open<'a>>) {
    let is_list = value.get().starts_with('[');
    match holds(keyword) {
        Holds::Properties => {
            for (name, schema) in pairs(value.get()).unwrap_or_default() {
                let below = path.map(|path| path.iter().cloned().chain([name.into_owned()]).collect());
                open.push((below, schema));
            }
        }
        Holds::Map => {
            open.extend(pairs(value.get()).unwrap_or_default().into_iter().map(|(_, schema)| (None, schema)));
        }
        Holds::List | Holds::OneOrList if is_list => {
            let list: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
            open.extend(list.into_iter().map(|schema| (None, schema)));
        }
        Holds::One | Holds::OneOrList => open.push((None, value)),
        Holds::List | Holds::Nothing => {}
    }
}

/// The parameter that a schema annotates, if it does.
fn annotated(
    path: Option<&[String]>,
    pairs: &[(Cow<'_, str>, &RawValue)],
) -> Result<Option<Param>, InvalidAnnotation> {
    let of = |wanted: &str| {
        let mut values = pairs.iter().filter(|(name, _)| name == wanted).map(|(_, value)| *value);
        (values.next(), values.next().is_some())
    };
    let (annotation, twice) = of(ANNOTATION);
    let Some(annotation) = annotation else { return Ok(None) };
    let Some(path) = path.filter(|path| !path.is_empty()) else { return Err(InvalidAnnotation::Unreachable) };
    let (kind, kind_twice) = of("type");
    if twice || kind_twice {
        return Err(InvalidAnnotation::Ambiguous);
    }
    let at = || path.join(".");
    let name = text(annotation.get()).filter(|name| !name.is_empty() && name.bytes().all(is_tchar));
    let header = name.and_then(|name| HeaderName::try_from(format!("mcp-param-{name}")).ok());
    let header = header.ok_or_else(|| InvalidAnnotation::NoToken(at()))?;
    let integer = match kind.and_then(|kind| text(kind.get())).as_deref() {
        Some("integer") => true,
        Some("string" | "boolean") => false,
        _ => return Err(InvalidAnnotation::NotPrimitive(at())),
    };
    Ok(Some(Param { header, path: path.to_vec(), integer }))
}

/// RFC 9110, section 5.6.2.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a text could hold an annotation. A name with escapes in it could be one.
fn may_annotate(json: &str) -> bool {
    json.contains(ANNOTATION) || json.contains("\\u")
}

/// All members of an object, in their order; nothing for another kind of value, or if a name is no text.
fn pairs(json: &str) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(name) = map.next_key::<String>()? {
                pairs.push((Cow::Owned(name), map.next_value()?));
            }
            Ok(pairs)
        }
    }
    if !json.starts_with('{') {
        return None;
    }
    serde_json::Deserializer::from_str(json).deserialize_map(Pairs).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(schema: &Value) -> Result<Vec<(String, String, bool)>, InvalidAnnotation> {
        let text = schema.to_string();
        let found = params(serde_json::from_str(&text).unwrap())?;
        Ok(found.into_iter().map(|p| (p.header.to_string(), p.path.join("/"), p.integer)).collect())
    }

    fn one(annotation: &Value, kind: &Value) -> Value {
        json!({"type": "object", "properties": {"p": {"type": kind, "x-mcp-header": annotation}}})
    }

    #[test]
    fn the_example_of_the_specification() {
        let schema = json!({
            "type": "object",
            "properties": {
                "region": {"type": "string", "description": "The region", "x-mcp-header": "Region"},
                "query": {"type": "string", "description": "The SQL query to execute"},
            },
            "required": ["region", "query"],
        });
        assert_eq!(seen(&schema).unwrap(), [("mcp-param-region".into(), "region".into(), false)]);
    }

    #[test]
    fn nested_properties_are_reached() {
        let schema = json!({"properties": {
            "a": {"type": "object", "properties": {
                "b": {"type": "integer", "x-mcp-header": "B"},
                "properties": {"type": "boolean", "x-mcp-header": "C"},
            }},
            "x-mcp-header": {"type": "string"},
        }});
        let expect = [
            ("mcp-param-b".into(), "a/b".into(), true),
            ("mcp-param-c".into(), "a/properties".into(), false),
        ];
        assert_eq!(seen(&schema).unwrap(), expect);
    }

    #[test]
    fn names_must_be_tokens_and_differ() {
        let p = || "p".to_owned();
        for bad in [json!(""), json!("a b"), json!("a\r\nb"), json!("ä"), json!("a:b"), json!(7), json!(null)]
        {
            assert_eq!(seen(&one(&bad, &json!("string"))), Err(InvalidAnnotation::NoToken(p())));
        }
        for good in ["a", "A-b_c.d", "!#$%&'*+-.^_`|~9"] {
            assert_eq!(seen(&one(&json!(good), &json!("string"))).unwrap().len(), 1, "{good}");
        }
        let twice = json!({"properties": {
            "a": {"type": "string", "x-mcp-header": "Same"},
            "b": {"type": "object", "properties": {"c": {"type": "string", "x-mcp-header": "sAME"}}},
        }});
        assert!(matches!(seen(&twice), Err(InvalidAnnotation::Taken(_))));
    }

    #[test]
    fn parameters_must_be_primitive() {
        for bad in
            [json!("number"), json!("object"), json!("array"), json!("null"), json!(["string", "null"])]
        {
            assert_eq!(seen(&one(&json!("X"), &bad)), Err(InvalidAnnotation::NotPrimitive("p".into())));
        }
        let none = json!({"properties": {"p": {"x-mcp-header": "X"}}});
        assert_eq!(seen(&none), Err(InvalidAnnotation::NotPrimitive("p".into())));
    }

    #[test]
    fn annotations_elsewhere_make_the_tool_invalid() {
        let annotated = json!({"type": "string", "x-mcp-header": "X"});
        let inner = json!({"properties": {"p": annotated}});
        for schema in [
            annotated.clone(),
            json!({"items": annotated}),
            json!({"items": [annotated]}),
            json!({"prefixItems": [{}, annotated]}),
            json!({"oneOf": [inner]}),
            json!({"anyOf": [inner]}),
            json!({"allOf": [inner]}),
            json!({"not": inner}),
            json!({"if": inner}),
            json!({"then": inner}),
            json!({"else": inner}),
            json!({"$defs": {"d": annotated}}),
            json!({"definitions": {"d": annotated}}),
            json!({"patternProperties": {"^p": annotated}}),
            json!({"additionalProperties": annotated}),
            json!({"dependencies": {"a": ["b"], "c": annotated}}),
            json!({"properties": {"list": {"type": "array", "items": inner}}}),
        ] {
            assert_eq!(seen(&schema), Err(InvalidAnnotation::Unreachable), "{schema}");
        }
    }

    #[test]
    fn data_is_no_schema() {
        let annotated = json!({"type": "string", "x-mcp-header": "X"});
        for keyword in ["default", "examples", "const", "enum", "x-other", "description", "required"] {
            assert_eq!(seen(&json!({"properties": {"p": {keyword: annotated}}})).unwrap(), []);
        }
        for schema in [json!(true), json!(null), json!([annotated]), json!({"properties": 1, "allOf": {}})] {
            assert_eq!(seen(&schema).unwrap(), []);
        }
    }

    #[test]
    fn ambiguous_schemas() {
        for text in [
            r#"{"properties":{"p":{"type":"string","type":"integer","x-mcp-header":"X"}}}"#,
            r#"{"properties":{"p":{"type":"string","x-mcp-header":"X","x-mcp-\u0068eader":"Y"}}}"#,
            r#"{"properties":{"p":{"type":"string","x-mcp-header":"X","\ud800":1}}}"#,
        ] {
            let found = params(serde_json::from_str(text).unwrap());
            assert_eq!(found, Err(InvalidAnnotation::Ambiguous), "{text}");
        }
    }

    #[test]
    fn deep_schemas_cost_little() {
        let nest = |inner: &str, levels| {
            format!("{}{inner}{}", r#"{"properties":{"p":"#.repeat(levels), "}}".repeat(levels))
        };
        let deep = nest(r#"{"type":"string"}"#, 5_000);
        assert_eq!(params(serde_json::from_str(&deep).unwrap()), Ok(vec![]));
        let hidden = nest(r#"{"type":"string","x-mcp-header":"X"}"#, 5_000);
        assert_eq!(params(serde_json::from_str(&hidden).unwrap()), Err(InvalidAnnotation::TooDeep));
    }
}
