// Microsoft's own client behind lines of JSON: a request on stdin, its answer on stdout, one after the other.
// Usage: node client.js DIR ENDPOINT ACCOUNT KEY     DIR is where tests/azurite/install put it.
'use strict';

const readline = require('node:readline');

const [dir, endpoint, account, key] = process.argv.slice(2);
const sdk = require(`${dir}/node_modules/@azure/storage-blob`);
const credential = new sdk.StorageSharedKeyCredential(account, key);
const service = new sdk.BlobServiceClient(endpoint, credential);

const blob = (container, name) => service.getContainerClient(container).getBlockBlobClient(name);

const put = async ({ container, key, data, metadata }) => {
  const bytes = Buffer.from(data, 'base64');
  return (await blob(container, key).upload(bytes, bytes.length, { metadata })).etag;
};

const operations = {
  create: ({ container }) => service.createContainer(container).then(() => ''),
  put,
  putMany: async ({ container, keys, data }) => {
    const left = [...keys];
    const worker = async () => {
      while (left.length > 0) await put({ container, key: left.pop(), data });
    };
    await Promise.all(Array.from({ length: 16 }, worker));
    return '';
  },
  delete: ({ container, key }) => blob(container, key).delete().then(() => ''),
  // Valid from an hour ago until `seconds` from now, which may have been.
  token: ({ container, permissions, seconds }) => {
    const now = Date.now();
    return sdk.generateBlobSASQueryParameters({
      containerName: container,
      permissions: sdk.ContainerSASPermissions.parse(permissions),
      startsOn: new Date(now - 3_600_000),
      expiresOn: new Date(now + seconds * 1000),
    }, credential).toString();
  },
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { operation, ...arguments_ } = JSON.parse(line);
    let answer;
    try {
      answer = { ok: await operations[operation](arguments_) };
    } catch (error) {
      answer = { error: `${operation}: ${error.code ?? ''} ${error.message}` };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
})();
