//! The messages: what people wrote by hand, what a generator made, and the same always.

use super::ways::Era;
use serde_json::Value;

/// Texts of JSON that a program which reads and writes messages anew would change.
const BY_HAND: &[&str] = &[
    "1",
    "1.0",
    "-0",
    "-0.0",
    "0.10",
    "1E+2",
    "1e-7",
    "1E400",
    "9007199254740993",
    "-9007199254740993",
    "123456789012345678901234567890.10",
    "null",
    "{}",
    "[ ]",
    "{ \"b\":1,\"a\":2 }",
    "{\"a\":1,\"a\":2}",
    r#""\u00e9\/\u0000\ud83d\ude00""#,
    "\"é😀\u{7f}\u{2028}\u{2029}\u{feff}\"",
    r#""\ud800""#,
    r#""\\u0041\"""#,
    "{\"nextCursor\":null,\"progress\":1.0,\"unknown\":{\"deep\":[[[[]]]]}}",
    "[1,\t2 ,3]",
    "{\"id\":1,\"method\":\"x\",\"jsonrpc\":\"1.0\",\"result\":{},\"error\":null}",
    "\"data: x\"",
    "\": y\"",
    "\"event: endpoint\"",
    "\"\\n\\r\\n\"",
    "{\"\":\"\"}",
    "{\"é\":\"\\u00e9\"}",
    "[true,false,null]",
];

/// How many texts are made.
const MADE: usize = 60;

/// What is sent and what comes back.
pub(super) struct Exchange {
    /// The client's request, as it is sent.
    pub(super) request: String,
    /// The text of its id.
    id: String,
    /// A notification that the client sends before it.
    notification: Option<String>,
    pub(super) method: String,
    /// What the server is to say, with `@ID@` for the id.
    pub(super) script: Vec<String>,
    /// The same, as the client is to hear it: the answer comes last.
    pub(super) answers: Vec<String>,
}

/// A line of the client.
pub(super) struct Sent<'a> {
    line: &'a str,
    id: Option<&'a str>,
}

impl Sent<'_> {
    pub(super) fn line(&self) -> &str {
        self.line
    }

    /// Whether a line is this one with another number for its id.
    pub(super) fn is_but_for_its_id(&self, heard: &str) -> bool {
        let Some(id) = self.id else { return heard == self.line };
        let Some((before, after)) = self.line.split_once(&format!("\"id\": {id} ,")) else { return false };
        let rest = heard.strip_prefix(before).and_then(|rest| rest.strip_prefix("\"id\": "));
        let Some((number, rest)) = rest.and_then(|rest| rest.split_once(' ')) else { return false };
        number.parse::<u64>().is_ok() && rest.strip_prefix(',') == Some(after)
    }
}

impl Exchange {
    pub(super) fn sent(&self) -> impl Iterator<Item = Sent<'_>> {
        let notification = self.notification.as_deref().map(|line| Sent { line, id: None });
        notification.into_iter().chain([Sent { line: &self.request, id: Some(&self.id) }])
    }

    /// The lines of the client, in their order.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.notification.as_deref().into_iter().chain([&*self.request])
    }
}

/// The corpus of an era.
pub(super) fn of(era: Era) -> Vec<Exchange> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let made = (0..MADE).map(|_| random.json(4)).collect::<Vec<_>>();
    let texts = BY_HAND.iter().map(|text| (*text).to_owned()).chain(made);
    texts.enumerate().map(|(number, text)| exchange(era, number, &text)).collect()
}

fn exchange(era: Era, number: usize, text: &str) -> Exchange {
    let id = match number % 3 {
        0 => format!("{number}"),
        1 => format!("\"id-{number}\""),
        _ => format!("12345678901234567{number:03}"),
    };
    let method = format!("test/{number}");
    let meta = match era {
        Era::Legacy => String::new(),
        Era::Modern => format!(
            r#""_meta":{{ "io.modelcontextprotocol/protocolVersion":"{}", "io.modelcontextprotocol/clientInfo":{{"name":"bytes","version":"1"}},"x":{text},"io.modelcontextprotocol/clientCapabilities":{{}} }},"#,
            crate::sdk::NEWEST
        ),
    };
    let request = format!(
        r#"{{"params" : {{{meta}"v":{text}}},"id": {id} ,"y":{text} , "method":"{method}","jsonrpc":"2.0"}}"#
    );
    let answer = if number % 5 == 4 {
        format!(r#"{{"error": {{"data":{text},"message":"m","code":-7}},"id":@ID@ ,"jsonrpc":"2.0"}}"#)
    } else {
        format!(r#"{{ "jsonrpc":"2.0","result":{{"v":{text} }} ,"y":{text},"id":@ID@}}"#)
    };
    let with_news = era == Era::Legacy && number % 4 == 1;
    let notified = |from: &str| {
        format!(r#"{{"params":{{"v": {text}}},"method":"notifications/from_{from}","jsonrpc":"2.0" }}"#)
    };
    let script: Vec<_> = with_news.then(|| notified("server")).into_iter().chain([answer]).collect();
    let answers = script.iter().map(|line| line.replace("@ID@", &id)).collect();
    Exchange { request, id, notification: with_news.then(|| notified("client")), method, script, answers }
}

/// Numbers that look random and are the same in each run (Marsaglia's xorshift), for texts of JSON in any spelling.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap_or_default()
    }

    fn json(&mut self, depth: usize) -> String {
        let space = ["", " ", "  ", "\t"][self.below(4)];
        let inner = match self.below(if depth == 0 { 2 } else { 4 }) {
            0 => BY_HAND[self.below(BY_HAND.len())].to_owned(),
            1 => {
                let characters = ['a', 'é', '"', '\\', '\n', '\u{1}', '𝄞', '\u{2028}', '/', '<', '\u{7f}'];
                let text: String =
                    (0..self.below(9)).map(|_| characters[self.below(characters.len())]).collect();
                Value::from(text).to_string()
            }
            2 => {
                let parts: Vec<_> = (0..self.below(4)).map(|_| self.json(depth - 1)).collect();
                format!("[{}]", parts.join(","))
            }
            _ => {
                let names = ["a", "b", "\\u0061", "é", "_meta", "params", "progressToken", "cursor"];
                let parts: Vec<_> = (0..self.below(4))
                    .map(|_| {
                        format!("\"{}\"{space}:{}", names[self.below(names.len())], self.json(depth - 1))
                    })
                    .collect();
                format!("{{{}}}", parts.join(","))
            }
        };
        format!("{space}{inner}{space}")
    }
}

#[test]
fn the_corpus_is_json_with_spellings_that_do_not_survive_a_parser() {
    for era in [Era::Legacy, Era::Modern] {
        let corpus = of(era);
        let is_changed = |line: &str| {
            // What serde_json cannot hold, such as 1E400, would be changed as well.
            serde_json::from_str::<Value>(line)
                .and_then(|value| serde_json::to_string(&value))
                .ok()
                .as_deref()
                != Some(line)
        };
        assert!(corpus.iter().all(|exchange| is_changed(&exchange.request)));
        assert!(corpus.iter().flat_map(|exchange| &exchange.answers).all(|line| is_changed(line)));
        assert!(corpus.iter().flat_map(Exchange::lines).all(|line| !line.contains(['\n', '\r'])));
        assert_eq!(corpus.len(), BY_HAND.len() + MADE);
    }
}
