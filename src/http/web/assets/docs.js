import { currentKey } from './credentials.js';

/** Starts Swagger UI, which is loaded by an own script before this module and knows no modules itself. */
const dark = matchMedia('(prefers-color-scheme: dark)').matches;
document.documentElement.classList.toggle('dark-mode', dark);

const key = currentKey();

const ui = globalThis.SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#docs',
  deepLinking: true,
  displayRequestDuration: true,
  // Its badge would ask a server elsewhere.
  validatorUrl: null,
  requestInterceptor(request) {
    if (key !== undefined && request.loadSpec) request.headers.authorization = `Bearer ${key}`;
    return request;
  },
  // What is tried out then carries the key too.
  onComplete() {
    if (key !== undefined) ui.preauthorizeApiKey('bearer', key);
  },
});
