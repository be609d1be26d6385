// Asks the server. A sentence of the server's becomes an ApiError.

export class ApiError extends Error {
  constructor(message, notes = []) {
    super(message);
    this.notes = notes;
  }
}

/** Get JSON. params: URLSearchParams. */
export async function get(name, params = new URLSearchParams(), signal = undefined) {
  return answer(fetch(`/api/${name}?${params}`, { signal }));
}

/** Ask for a change: the header tells the server that no form of another site sent it. It is sent also if the page is left. */
export async function post(name, body) {
  const headers = { "Content-Type": "application/json", "X-Rolloutops": "1" };
  return answer(fetch(`/api/${name}`, { method: "POST", headers, body: JSON.stringify(body), keepalive: true }));
}

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server does not answer: is 'rolloutops view' still running?");
  }
  if (response.status === 401) throw new ApiError("this page's key is no longer valid: open the printed link again");
  if (response.headers.get("Content-Type")?.startsWith("application/json")) {
    const found = await response.json();
    if (found.error && found.notes) throw new ApiError(found.error, found.notes);
    return found;
  }
  throw new ApiError(`the server failed (${response.status}): see its terminal for the reason`);
}
