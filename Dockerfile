FROM node:24-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY tsconfig.json ./
COPY src ./src
RUN npm run build \
  && npm ci --ignore-scripts --omit=dev \
  && mkdir /data

FROM gcr.io/distroless/nodejs24-debian12:nonroot
WORKDIR /app
COPY LICENSE package.json ./
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
# There is no shell here to make it, and a volume takes its owner from the directory it covers.
COPY --from=build --chown=nonroot:nonroot /data /data
ENV NODE_ENV=production \
  OPLOG_LISTEN=0.0.0.0:7450 \
  OPLOG_ADMIN_LISTEN=0.0.0.0:7451 \
  OPLOG_DATA_DIR=/data
USER nonroot
VOLUME /data
EXPOSE 7450 7451
ENTRYPOINT ["/nodejs/bin/node", "dist/main.js"]
