/**
 * A parser for server-sent events, by the rules of the HTML standard. The returned function takes the next piece of
 * text, cut anywhere, and returns the events that it completes, each with the latest id and `retry` (milliseconds).
 */
export function eventParser() {
  let rest = '';
  let afterReturn = false;
  let type = '';
  let data = [];
  let id = '';
  let retry;

  function takeLine(line, events) {
    if (line === '') {
      if (data.length > 0) events.push({ type: type || 'message', data: data.join('\n'), id, retry });
      type = '';
      data = [];
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + (line[colon + 1] === ' ' ? 2 : 1));
    if (field === 'data') data.push(value);
    else if (field === 'event') type = value;
    else if (field === 'id' && !value.includes('\0')) id = value;
    else if (field === 'retry' && /^\d+$/.test(value)) retry = Number(value);
  }

  return function push(text) {
    if (text === '') return [];
    const events = [];
    const fresh = afterReturn && text[0] === '\n' ? text.slice(1) : text;
    afterReturn = text.endsWith('\r');
    const lines = (rest + fresh).split(/\r\n|\n|\r/);
    rest = lines.pop();
    for (const line of lines) takeLine(line, events);
    return events;
  };
}

/** The events of a response. An event without its blank line is incomplete and dropped. */
export async function* readEvents(response) {
  const push = eventParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* push(value);
    }
  } finally {
    // Closes the connection when the caller stops early. After an abort it is closed already.
    await reader.cancel().catch(() => {});
  }
}
