/**
 * A small chat application: it streams, resumes, stops, regenerates, edits, calls tools and sends images.
 * Serve this folder from any loopback address and open it; `?api=` names another server than the default.
 */
const API = new URLSearchParams(location.search).get('api') ?? 'http://127.0.0.1:5010';
const RETRIES = 5;
const RETRY_MS = 1000;

/** What the model may call, and what runs then. */
const TOOLS = {
  get_weather: {
    description: 'The weather in a city now',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
    run: ({ city }) => `${city}: 21 °C, sunny`,
  },
};
const PARAMETERS = {
  tools: Object.entries(TOOLS).map(([name, { description, parameters }]) => ({
    type: 'function',
    function: { name, description, parameters },
  })),
};

const find = (id) => document.getElementById(id);
const log = find('log');
/** The conversation and the running stream outlive a reload. */
let conversation = sessionStorage.getItem('conversation') ?? undefined;
let stream = sessionStorage.getItem('stream') ?? undefined;

function keep(name, value) {
  if (value === undefined) sessionStorage.removeItem(name);
  else sessionStorage.setItem(name, value);
}

async function call(path, options = {}) {
  const response = await fetch(API + path, options);
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ detail: response.statusText }));
  throw Object.assign(new Error(problem.detail), { status: response.status, code: problem.code });
}

/** The events of a response: blank lines separate them, and pings are comments. */
async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      const field = (name) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1];
      const data = field('data');
      if (data) yield { type: field('event') ?? 'message', id: field('id'), body: JSON.parse(data) };
    }
  }
}

/**
 * The events of one reply across lost connections. The Idempotency-Key makes a repeated question the same turn; once
 * the stream is known, it is resumed after the last event.
 * @param question undefined: resume the stream `streamId`
 */
async function* replyEvents(question, streamId) {
  const key = crypto.randomUUID();
  let [id, last] = [streamId];
  for (let attempt = 0; ; attempt += 1) {
    try {
      const response = id
        ? await call(`/api/chat-stream/${id}${last ? `?last_event_id=${last}` : ''}`)
        : await call('/api/chat-stream', {
            method: 'POST',
            headers: { 'content-type': 'application/json', 'idempotency-key': key },
            body: JSON.stringify(question),
          });
      for await (const event of readEvents(response)) {
        last = event.id ?? last;
        if (event.type === 'start') id = event.body.stream_id;
        else attempt = 0;
        if (event.type === 'error') throw Object.assign(new Error(event.body.detail), event.body);
        yield event;
        if (event.type === 'done') return;
      }
    } catch (error) {
      // An error with a status is the response of the server: only a broken connection is retried.
      if (error.status) throw error;
    }
    if (attempt === RETRIES) throw new Error('The connection was lost. Reload the page to resume the reply.');
    find('state').textContent = 'Reconnecting…';
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS * 2 ** attempt));
  }
}

/** Shows one reply while it comes. @returns its `done` */
async function readReply(question, streamId) {
  const item = addItem('assistant', '');
  let reasoning;
  for await (const { type, body } of replyEvents(question, streamId)) {
    if (type === 'start') {
      item.dataset.id = body.message_id;
      [conversation, stream] = [body.conversation_id, body.stream_id];
      keep('conversation', conversation);
      keep('stream', stream);
      // A stream that is read from its start sends everything again.
      if (!body.offset) item.replaceChildren();
    }
    if (body.reasoning) {
      reasoning ??= addReasoning(item);
      reasoning.append(body.reasoning);
    }
    item.append(body.content);
    find('state').textContent = type === 'reasoning' ? 'Thinking…' : 'Receiving…';
    if (type === 'done') return body;
  }
}

/** One question, and as many rounds of tool calls as the model asks for. */
async function ask(question, streamId) {
  setBusy(true);
  try {
    let done = await readReply(question && turn(question), streamId);
    while (done.tool_calls) {
      const tool_results = done.tool_calls.map(({ id, function: { name, arguments: text } }) => {
        const content = runTool(name, text);
        addItem('tool', `${name}(${text}) = ${content}`);
        return { tool_call_id: id, content };
      });
      done = await readReply(turn({ tool_results }));
    }
    await showConversation();
    find('state').textContent = done.finish_reason;
  } catch (error) {
    find('state').textContent = error.message;
  }
  setBusy(false);
}

const turn = (question) => ({
  ...question,
  conversation_id: conversation,
  format: 'markdown',
  parameters: PARAMETERS,
  reasoning: true,
});

/** The arguments are text of the model, so they may be anything. */
function runTool(name, text) {
  try {
    return TOOLS[name].run(JSON.parse(text));
  } catch (error) {
    return `Error: ${error.message}`;
  }
}

function setBusy(isBusy) {
  find('send').hidden = isBusy;
  find('stop').hidden = !isBusy;
  log.classList.toggle('busy', isBusy);
  if (isBusy) return;
  stream = undefined;
  keep('stream', undefined);
}

function addItem(role, content) {
  const item = document.createElement('li');
  item.dataset.role = role;
  item.append(content);
  log.append(item);
  return item;
}

function addReasoning(item) {
  const details = document.createElement('details');
  const summary = document.createElement('summary');
  summary.textContent = 'Reasoning';
  details.append(summary);
  item.prepend(details);
  return details;
}

function addButton(item, text, action) {
  const button = document.createElement('button');
  button.textContent = text;
  button.addEventListener('click', action);
  item.append(' ', button);
}

/** Shows what is stored. Messages that a new reply or an edited question has replaced are not part of it. */
async function showConversation() {
  if (!conversation) return;
  const response = await call(`/api/conversations/${conversation}?limit=1000`);
  const { messages } = await response.json();
  log.replaceChildren();
  for (const message of messages) {
    const item = addItem(message.role, message.content);
    item.dataset.id = message.id;
    if (message.reasoning) addReasoning(item).append(message.reasoning);
    for (const { function: made } of message.tool_calls ?? []) item.append(`${made.name}(${made.arguments})`);
    for (const { image_url: image } of message.parts ?? [])
      if (image) item.append(Object.assign(new Image(), { src: image.url, alt: 'Image of the question' }));
    if (message.role === 'user') addButton(item, 'Edit', () => edit(message));
  }
  const last = messages.at(-1);
  if (last?.role === 'assistant' && !last.tool_calls)
    addButton(log.lastElementChild, 'Regenerate', () => ask({ regenerate: last.id }));
}

function edit({ id, content }) {
  const message = prompt('Edit the question', content);
  if (message) void ask({ edit: id, message });
}

function readImage(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ type: 'image_url', image_url: { url: reader.result } });
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

find('form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const [text, [file]] = [find('message').value, find('image').files];
  if (find('send').hidden || (text.trim() === '' && !file)) return;
  const parts = text.trim() === '' ? [] : [{ type: 'text', text }];
  const message = file ? [...parts, await readImage(file)] : text;
  find('form').reset();
  addItem('user', text);
  await ask({ message });
});

find('message').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  find('form').requestSubmit();
});

// The stopped reply ends with `done`, so nothing else has to be done here.
find('stop').addEventListener('click', () => {
  if (stream) void call(`/api/chat-stream/${stream}`, { method: 'DELETE' });
});

find('new').addEventListener('click', () => {
  sessionStorage.clear();
  location.reload();
});

/** After a reload: what is stored, then the rest of the reply that was running. */
async function start() {
  const running = stream;
  try {
    await showConversation();
  } catch (error) {
    find('state').textContent = error.message;
  }
  if (!running) return;
  log.querySelector(`[data-id="${running}"]`)?.remove();
  await ask(undefined, running);
}

await start();
