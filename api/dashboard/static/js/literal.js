// Texts for plotly, which reads a small HTML of its own in names, titles and labels: tags such as <a>, and entities.

/** The text such that plotly draws it as it is. Every text that is given to plotly goes through here. */
export function literal(text) {
  return String(text ?? "")
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;");
}
