import { button, element } from '../chat/dom.js';
import { setText } from '../i18n.js';

/** Details that are folded, with a text key as their title. */
export function folded(className, content, key, values) {
  return element('details', className, setText(element('summary'), key, values), content);
}

/** A message that is neither a question nor a reply: a result of a tool, or a system message. */
export function foldedMessage({ id, role, content }) {
  const key = role === 'tool' ? 'toolResult' : 'settingsSystem';
  const box = folded('tool', element('pre', '', content), key);
  if (id) box.dataset.id = id;
  return box;
}

/** JSON with indentation, and the digits of its numbers as they are; any other text unchanged. */
function readable(text) {
  const exact = (_, value, context) =>
    typeof value === 'number' && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
  try {
    return JSON.stringify(JSON.parse(text, exact), null, 2);
  } catch {
    return text;
  }
}

export function toolCall({ function: call }) {
  const box = folded('tool', element('pre', '', readable(call.arguments)), 'toolCall', { name: call.name });
  box.open = true;
  return box;
}

/**
 * A form for the results of tool calls, which go to the model together.
 * @param onSend called with the `tool_results` of a request
 */
export function resultsForm(calls, onSend) {
  const fields = calls.map(() => Object.assign(element('textarea'), { rows: 2 }));
  const labels = calls.map(({ function: { name } }, at) =>
    element('label', '', setText(element('span'), 'toolResultOf', { name }), fields[at]),
  );
  const send = button('toolSend');
  send.type = 'submit';
  const form = element('form', 'results', ...labels, send);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    onSend(calls.map(({ id }, at) => ({ tool_call_id: id, content: fields[at].value })));
  });
  return form;
}
