package main

import (
	"path/filepath"
	"strings"

	"github.com/postern-cri/postern/test/fixtures"
)

func apacheTree() (fixtures.Tree, error) {
	t := fixtures.Tree{
		"var/www/html/index.html": {Body: "<html><body><h1>It works!</h1></body></html>\n"},
		"etc/apache2/httpd.conf":  {Body: apacheConf},
	}
	t.Dirs(0o755, "var/run/apache2")
	for _, m := range []string{"mpm_event", "authz_core", "dir"} {
		so := "/usr/lib/apache2/modules/mod_" + m + ".so"
		if err := t.Program(so, strings.TrimPrefix(filepath.Clean(so), "/")); err != nil {
			return nil, err
		}
	}
	return t, t.Program("/usr/sbin/apache2", "usr/sbin/httpd")
}

const apacheConf = `ServerRoot /etc/apache2
ServerName httpd
PidFile /var/run/httpd.pid
DefaultRuntimeDir /var/run/apache2
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
Listen 80
User www-data
Group www-data
DocumentRoot /var/www/html
DirectoryIndex index.html
ErrorLog /dev/stderr
LogLevel notice
<Directory />
  Require all granted
</Directory>
`
