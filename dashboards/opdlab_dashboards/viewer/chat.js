// A chat as a chat: roles, paragraphs, lists, code. A model's words become text nodes alone, never markup: there is no
// innerHTML here, and no element that could load, run or lead anywhere.
const STARTS = /^(?:<s>|<bos>|<\|begin_of_text\|>|<｜begin▁of▁sentence｜>)+/;
const FORMS = [
  /<\|im_start\|>(\w+)\n([\s\S]*?)(?:<\|im_end\|>\n?|$)/g,
  /<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n([\s\S]*?)(?:<\|eot_id\|>|$)/g,
  /<start_of_turn>(\w+)\n([\s\S]*?)(?:<end_of_turn>\n?|$)/g,
];
// The turns of a rendered prompt, without the empty one that the model is to fill; null where its template is not known.
function chatTurns(prompt) {
  const text = prompt.replace(STARTS, "");
  for (const form of FORMS) {
    const found = [...text.matchAll(form)];
    if (!found.length || found.map(([whole]) => whole).join("") !== text) continue;
    const turns = found.map(([, role, said]) => ({ role, said }));
    if (!turns.at(-1).said) turns.pop();
    return turns;
  }
  return null;
}
function turn(role, said) {
  return element("div", { className: "turn" }, element("span", { className: "role", textContent: role }), markdown(said));
}
function markdown(text) {
  const made = element("div", { className: "said" });
  text.split(/^```/m).forEach((part, number) => {
    if (number % 2 === 0) return paragraphs(part, made);
    const [, language, code] = part.match(/^([^\n]*)\n?([\s\S]*)$/);
    made.append(element("pre", { className: "code", title: language.trim() }, marked(code.replace(/\n$/, ""))));
  });
  return made;
}
function paragraphs(text, made) {
  for (const block of text.split(/\n{2,}/)) {
    if (!block.trim()) continue;
    const paragraph = element("p");
    block.replace(/^\n|\n$/g, "").split("\n").forEach((line, number) => {
      if (number) paragraph.append("\n");
      const [, sign, rest] = line.match(/^(#{1,6} |\s*[-*] )?([\s\S]*)$/);
      if (sign?.startsWith("#")) paragraph.append(element("strong", {}, ...inline(rest)));
      else paragraph.append(...(sign ? [`${sign.slice(0, -2)}• `] : []), ...inline(rest));
    });
    made.append(paragraph);
  }
}
function inline(line) {
  return line.split(/(`[^`]+`|\*\*[^*]+\*\*)/).filter(Boolean).map((part) => {
    if (/^`[^`]+`$/.test(part)) return element("code", {}, marked(part.slice(1, -1)));
    if (/^\*\*[^*]+\*\*$/.test(part)) return element("strong", {}, marked(part.slice(2, -2)));
    return marked(part);
  });
}
