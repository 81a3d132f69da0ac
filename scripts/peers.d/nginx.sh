# Sourced by scripts/peers: nginx as an HTTP cache: it stores what is PUT and knows nothing of its meaning.

nginx_missing() {
    has_program nginx || echo "nginx is not installed"
}

nginx_endpoint() { echo "http://$1"; }

nginx_exec() {
    mkdir -p "$1/files" "$1/tmp"
    nginx_config "$1" "$2:$3" > "$1/nginx.conf"
    export PATH=$PATH:/usr/sbin
    exec nginx -p "$1/" -e "$1/error.log" -c "$1/nginx.conf"
}

# nginx_config DIR ADDRESS
nginx_config() {
    [ "$(id -u)" != 0 ] || echo "user root;"
    cat << END
daemon off;
worker_processes 1;
pid $1/nginx.pid;
error_log $1/error.log;
events {}
http {
    access_log $1/access.log;
    client_body_temp_path $1/tmp/body;
    proxy_temp_path $1/tmp/proxy;
    fastcgi_temp_path $1/tmp/fastcgi;
    uwsgi_temp_path $1/tmp/uwsgi;
    scgi_temp_path $1/tmp/scgi;
    client_max_body_size 0;
    server {
        listen $2;
        root $1/files;
        dav_methods PUT;
        create_full_put_path on;
    }
}
END
}
