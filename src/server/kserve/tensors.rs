//! Tensors as JSON and as bytes behind it.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::server::errors::{ApiError, json_response};

/// How many bytes of a body are JSON; tensors follow them.
const JSON_LENGTH: &str = "inference-header-content-length";

/// Elements of a tensor at most: far more texts than one request may ask for.
const MOST_ELEMENTS: usize = 1 << 20;

/// An inference request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InferRequest {
    /// Comes back in the answer.
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub parameters: Map<String, Value>,
    #[serde(default)]
    inputs: Vec<RawInput>,
    #[serde(default)]
    pub outputs: Vec<WantedOutput>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInput {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(default)]
    data: Option<Value>,
}

/// An output that a request asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedOutput {
    pub name: String,
    #[serde(default)]
    pub parameters: Map<String, Value>,
}

/// An input.
#[derive(Debug, PartialEq)]
pub struct Input {
    pub name: String,
    pub datatype: String,
    pub shape: Vec<i64>,
    /// As many as the shape says: texts, numbers, or `true` and `false`.
    pub elements: Vec<Value>,
}

/// Reads a request and its inputs.
///
/// # Errors
/// 400 that says what is wrong with which tensor.
pub fn read(headers: &HeaderMap, body: &[u8]) -> Result<(InferRequest, Vec<Input>), ApiError> {
    if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|one| *one != "identity") {
        return Err(ApiError::bad_request(format!(
            "Content-Encoding {coding:?} is not read: send the body uncompressed"
        )));
    }
    let (text, mut rest) = match headers.get(JSON_LENGTH) {
        None => (body, &[][..]),
        Some(length) => length
            .to_str()
            .ok()
            .and_then(|length| body.split_at_checked(length.parse().ok()?))
            .ok_or_else(|| {
                ApiError::bad_request(format!(
                    "Inference-Header-Content-Length is {length:?}, and the body has {} bytes",
                    body.len()
                ))
            })?,
    };
    let mut request: InferRequest = serde_json::from_slice(text)
        .map_err(|error| ApiError::bad_request(format!("not an inference request: {error}")))?;
    let raw = std::mem::take(&mut request.inputs);
    let inputs = raw.into_iter().map(|raw| input(raw, &mut rest)).collect::<Result<Vec<_>, _>>()?;
    if !rest.is_empty() {
        let problem = format!("{} bytes behind the JSON belong to no input", rest.len());
        return Err(ApiError::bad_request(problem));
    }
    Ok((request, inputs))
}

fn input(mut raw: RawInput, rest: &mut &[u8]) -> Result<Input, ApiError> {
    let wrong = |problem: String| ApiError::bad_request(format!("input {:?}: {problem}", raw.name));
    let shape = &raw.shape;
    let product = |product: usize, &size: &i64| product.checked_mul(usize::try_from(size).ok()?);
    let count = shape.iter().try_fold(1, product).filter(|&count| count <= MOST_ELEMENTS);
    let count = count.ok_or_else(|| wrong(format!("shape {shape:?} is negative or too large")))?;
    let size = raw.parameters.remove("binary_data_size");
    if let Some(name) = raw.parameters.keys().next() {
        return Err(wrong(format!("the parameter {name:?} is not supported")));
    }
    let elements = match (size, raw.data.take()) {
        (Some(size), None) => {
            let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
            let Some((bytes, others)) = size.and_then(|size| rest.split_at_checked(size)) else {
                return Err(wrong(format!("only {} bytes are left in the body", rest.len())));
            };
            *rest = others;
            decode(&raw.datatype, bytes, count).map_err(wrong)?
        }
        (None, Some(data)) => {
            let mut elements = Vec::new();
            flatten(data, &mut elements, 8).map_err(wrong)?;
            elements
        }
        (Some(_), Some(_)) => return Err(wrong("it has data and binary_data_size".to_string())),
        (None, None) => return Err(wrong("it has no data".to_string())),
    };
    if elements.len() != count {
        let found = elements.len();
        return Err(wrong(format!("shape {shape:?} has {count} elements, the data has {found}")));
    }
    let fits = |element: &Value| match raw.datatype.as_str() {
        "BYTES" => element.is_string(),
        "BOOL" => element.is_boolean(),
        _ => element.is_number(),
    };
    if let Some(element) = elements.iter().find(|element| !fits(element)) {
        return Err(wrong(format!("{element} is not of type {}", raw.datatype)));
    }
    Ok(Input { name: raw.name, datatype: raw.datatype, shape: raw.shape, elements })
}

/// Lists within lists are as good as one list.
fn flatten(data: Value, elements: &mut Vec<Value>, depth: usize) -> Result<(), String> {
    match data {
        Value::Array(_) if depth == 0 => Err("its lists are nested too deep".to_string()),
        Value::Array(list) => {
            list.into_iter().try_for_each(|one| flatten(one, elements, depth - 1))
        }
        Value::Null | Value::Object(_) => Err(format!("found {data} among the data")),
        element => {
            elements.push(element);
            Ok(())
        }
    }
}

/// Elements from their bytes, in little-endian order.
fn decode(datatype: &str, bytes: &[u8], count: usize) -> Result<Vec<Value>, String> {
    macro_rules! numbers {
        ($($kind:ty),*) => {
            match datatype {
                $(name if name == kserve_name(stringify!($kind)) => {
                    let (all, rest) = bytes.as_chunks::<{ size_of::<$kind>() }>();
                    if all.len() != count || !rest.is_empty() {
                        let size = count * size_of::<$kind>();
                        return Err(format!("expected {size} bytes, found {}", bytes.len()));
                    }
                    return Ok(all.iter().map(|one| json!(<$kind>::from_le_bytes(*one))).collect());
                })*
                _ => {}
            }
        };
    }
    numbers!(i8, i16, i32, i64, u8, u16, u32, u64, f32, f64);
    match datatype {
        "BOOL" => bytes
            .iter()
            .map(|byte| match byte {
                0 => Ok(json!(false)),
                1 => Ok(json!(true)),
                _ => Err(format!("found the byte {byte} where a BOOL is 0 or 1")),
            })
            .collect(),
        "BYTES" => texts(bytes),
        _ => Err(format!("the type {datatype:?} is not known, or not read from bytes")),
    }
}

/// What the protocol calls one of Rust's types.
fn kserve_name(kind: &str) -> String {
    let (letter, bits) = kind.split_at(1);
    let name = match letter {
        "i" => "INT",
        "u" => "UINT",
        _ => "FP",
    };
    format!("{name}{bits}")
}

/// Texts, each behind its length in four bytes.
fn texts(mut bytes: &[u8]) -> Result<Vec<Value>, String> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let next = bytes.split_first_chunk().and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
        });
        let Some((text, rest)) = next else {
            return Err(format!("text {} is longer than the bytes that are left", texts.len()));
        };
        let text = std::str::from_utf8(text)
            .map_err(|error| format!("text {} is not UTF-8: {error}", texts.len()))?;
        texts.push(json!(text));
        bytes = rest;
    }
    Ok(texts)
}

/// An answer: texts of a shape in the output of a name, as JSON or behind it.
pub fn write(
    mut document: Value,
    name: &str,
    shape: &[i64],
    texts: &[String],
    binary: bool,
) -> Response {
    let mut output = json!({ "name": name, "datatype": "BYTES", "shape": shape });
    if !binary {
        output["data"] = json!(texts);
        document["outputs"] = json!([output]);
        return json_response(axum::http::StatusCode::OK, &document);
    }
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    output["parameters"] = json!({ "binary_data_size": bytes.len() });
    document["outputs"] = json!([output]);
    let mut body = document.to_string().into_bytes();
    let length = HeaderValue::from(body.len());
    body.extend_from_slice(&bytes);
    let mut response = body.into_response();
    response.headers_mut().insert(JSON_LENGTH, length);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_json(document: &Value, bytes: &[u8]) -> Result<Vec<Input>, String> {
        let mut body = document.to_string().into_bytes();
        let mut headers = HeaderMap::new();
        headers.insert(JSON_LENGTH, HeaderValue::from(body.len()));
        body.extend_from_slice(bytes);
        read(&headers, &body).map(|(_, inputs)| inputs).map_err(|error| error.message)
    }

    fn one(input: Value, bytes: &[u8]) -> Result<Vec<Value>, String> {
        read_json(&json!({ "inputs": [input] }), bytes).map(|mut inputs| inputs.remove(0).elements)
    }

    #[test]
    fn tensors_are_read_from_json_and_from_bytes() {
        let nested =
            json!({"name": "a", "shape": [2, 1], "datatype": "BYTES", "data": [["x"], ["y"]]});
        assert_eq!(one(nested, b"").unwrap(), [json!("x"), json!("y")]);
        let binary = |datatype: &str, shape: Value, size: usize| {
            json!({"name": "a", "shape": shape, "datatype": datatype,
                   "parameters": {"binary_data_size": size}})
        };
        let text = [&3u32.to_le_bytes()[..], b"abc", &0u32.to_le_bytes()[..]].concat();
        assert_eq!(one(binary("BYTES", json!([2]), 11), &text).unwrap(), [json!("abc"), json!("")]);
        let number = 0.5f32.to_le_bytes();
        assert_eq!(one(binary("FP32", json!([1, 1]), 4), &number).unwrap(), [json!(0.5)]);
        assert_eq!(one(binary("BOOL", json!([1]), 1), &[1]).unwrap(), [json!(true)]);
        assert_eq!(one(binary("INT8", json!([1]), 1), &[255]).unwrap(), [json!(-1)]);
    }

    #[test]
    fn what_is_wrong_with_a_tensor_is_named() {
        let tensor = |shape: Value, datatype: &str, data: Value| {
            one(json!({"name": "a", "shape": shape, "datatype": datatype, "data": data}), b"")
                .unwrap_err()
        };
        assert!(tensor(json!([-1]), "BYTES", json!(["x"])).contains("negative"));
        assert!(tensor(json!([i64::MAX, i64::MAX]), "BYTES", json!(["x"])).contains("too large"));
        assert!(
            tensor(json!([2]), "BYTES", json!(["x"])).contains("has 2 elements, the data has 1")
        );
        assert!(tensor(json!([1]), "BYTES", json!([3])).contains("not of type BYTES"));
        assert!(tensor(json!([1]), "BYTES", json!([null])).contains("null"));
        let binary = |datatype: &str, size: i64, bytes: &[u8]| {
            let parameters = json!({"binary_data_size": size});
            let input =
                json!({"name": "a", "shape": [1], "datatype": datatype, "parameters": parameters});
            one(input, bytes).unwrap_err()
        };
        assert!(binary("BYTES", 9, b"abc").contains("only 3 bytes"));
        assert!(binary("BYTES", -1, b"abc").contains("only 3 bytes"));
        assert!(binary("BYTES", 5, b"\xff\xff\xff\xffa").contains("longer than the bytes"));
        assert!(binary("BYTES", 5, b"\x01\0\0\0\xff").contains("not UTF-8"));
        assert!(binary("FP32", 3, b"abc").contains("expected 4 bytes, found 3"));
        assert!(binary("COMPLEX", 1, b"a").contains("COMPLEX"));
        assert!(
            read_json(&json!({"inputs": []}), b"abc").unwrap_err().contains("belong to no input")
        );
        assert!(read(&HeaderMap::new(), b"{\"inputz\": []}").is_err());
    }
}
