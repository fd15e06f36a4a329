//! Nested values: of the settings file as text, and text as a value.

use toml::Value as Toml;
use toml::de::DeValue;

use crate::settings::url::not_a_url;

/// `value` as one line of TOML, with `expand` applied to every text in it but the keys.
///
/// # Errors
/// Those of `expand`.
pub fn inline(value: &DeValue<'_>, expand: &impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    Ok(match value {
        DeValue::String(text) => quoted(&expand(text)?),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| "a number beyond 64 bits")?.to_string()
        }
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| inline(item.get_ref(), expand)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) if table.is_empty() => "{}".to_owned(),
        DeValue::Table(table) => {
            let pair = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
                Ok(format!("{} = {}", bare_or_quoted(key.get_ref()), inline(value.get_ref(), expand)?))
            };
            let pairs = table.iter().map(pair).collect::<Result<Vec<_>, String>>()?;
            format!("{{ {} }}", pairs.join(", "))
        }
    })
}

/// The value that `text` is the TOML of.
///
/// # Errors
/// Why it is none. Nothing of the text is quoted.
pub fn read(text: &str) -> Result<Toml, String> {
    let document = format!("value = {text}");
    let mut table: toml::Table = toml::from_str(&document)
        .map_err(|error| format!("invalid TOML: {}", error.message().trim_end().replace('\n', ", ")))?;
    match (table.remove("value"), table.is_empty()) {
        (Some(value), true) => Ok(value),
        _ => Err("more than one value".to_owned()),
    }
}

/// What a value is, with its article.
pub fn name_of(value: &Toml) -> String {
    match value {
        // In a wrong place it may be a URL with a password in it.
        Toml::String(text) => quoted(not_a_url(text)),
        Toml::Integer(number) => number.to_string(),
        Toml::Float(number) => number.to_string(),
        Toml::Boolean(flag) => flag.to_string(),
        Toml::Datetime(_) => "a date or time".to_owned(),
        Toml::Array(_) => "a list".to_owned(),
        Toml::Table(_) => "a table".to_owned(),
    }
}

fn bare_or_quoted(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !key.is_empty() && key.bytes().all(is_bare) { key.to_owned() } else { quoted(key) }
}

fn quoted(text: &str) -> String {
    super::super::setting::Value::Text(text.to_owned().into()).to_string()
}
