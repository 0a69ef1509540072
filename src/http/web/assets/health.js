import { request, urlOf } from './credentials.js';
import { setText } from './i18n.js';

export const HEALTH = '/health/ready';

const INTERVAL_MS = 10_000;
const TIMEOUT_MS = 6000;

const SERVICE = {
  ready: ['good', 'serviceReady'],
  not_ready: ['bad', 'serviceNotReady'],
  stopping: ['bad', 'serviceStopping'],
};
const UP_OR_DOWN = { up: ['good', 'partUp'], down: ['bad', 'partDown'] };
const DATABASE = { ...UP_OR_DOWN, read_only: ['bad', 'readOnly'] };
const UPSTREAM = {
  ...UP_OR_DOWN,
  demo: ['demo', 'demo'],
  refused: ['bad', 'refused'],
  not_found: ['bad', 'notFound'],
};
const NOTES = {
  up: ['model', 'modelUp'],
  down: ['model', 'modelDown'],
  refused: ['model', 'modelRefused'],
  not_found: ['model', 'modelNotFound'],
  demo: ['modelDemoTitle', 'modelDemo'],
};
const UNKNOWN = ['wait', 'unknown'];
/** Where authentication is on, only admins get more than the status. */
const HIDDEN = ['wait', 'adminsOnly'];

/** @returns the body of /health/ready, also of a 503; undefined when the server does not respond */
async function report() {
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const options = { cache: 'no-store', signal };
    const response = await request(HEALTH, options);
    // A problem is about the key, so the request is repeated without it.
    const problem = response.headers.get('content-type')?.startsWith('application/problem+json');
    return await (problem ? await fetch(urlOf(HEALTH), options) : response).json();
  } catch {
    return undefined;
  }
}

function show(part, [state, key]) {
  const item = document.querySelector(`#health [data-part="${part}"]`);
  item.dataset.state = state;
  setText(item.querySelector('b'), key);
}

function showAll(report) {
  show('service', report ? (SERVICE[report.status] ?? UNKNOWN) : ['bad', 'serviceSilent']);
  const hidden = report !== undefined && report.database === undefined;
  show('database', hidden ? HIDDEN : (DATABASE[report?.database] ?? UNKNOWN));
  show('upstream', hidden ? HIDDEN : (UPSTREAM[report?.upstream] ?? UNKNOWN));
  const note = hidden ? ['model', 'modelHidden'] : NOTES[report?.upstream];
  if (!note) return;
  const box = document.getElementById('model');
  box.dataset.shown = hidden ? 'wait' : report.upstream;
  setText(box.querySelector('h2'), note[0]);
  setText(box.querySelector('p'), note[1]);
}

/** Polls the health status while the page is visible; `refresh` polls immediately. */
export function watchHealth() {
  let timer;
  async function refresh() {
    clearTimeout(timer);
    showAll(await report());
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(refresh, INTERVAL_MS);
  }
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) clearTimeout(timer);
    else void refresh();
  });
  void refresh();
  return { refresh };
}
